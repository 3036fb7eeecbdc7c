# The service on a CPU. docs/service.md shows how to build and run it.
#
#     docker build --build-arg TORCH_INDEX=ADDRESS -t advrad .
#
# TORCH_INDEX is the address of PyTorch's packages for CPUs, which PyTorch's page of installation names, or of a mirror;
# the usual packages hold gigabytes for graphics cards. Nothing is fetched once the image runs.

FROM python:3.11-slim AS build
ARG TORCH_INDEX
RUN test -n "$TORCH_INDEX" || { echo "give --build-arg TORCH_INDEX=ADDRESS, see the Dockerfile" >&2; exit 1; }
RUN python -m venv /opt/advrad
COPY Makefile constraints.txt /build/
# Before the code, so that a change of the code does not install PyTorch again.
RUN version=$(sed -n 's/^TORCH := //p' /build/Makefile) \
    && /opt/advrad/bin/pip install --no-cache-dir -c /build/constraints.txt --extra-index-url "$TORCH_INDEX" "$version+cpu"
COPY pyproject.toml README.md LICENSE /build/
COPY src /build/src
RUN /opt/advrad/bin/pip install --no-cache-dir -c /build/constraints.txt "/build[serve,mqtt]" \
    && /opt/advrad/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin advrad \
    && install --directory --owner advrad --group advrad --mode 750 /data
COPY --from=build /opt/advrad /opt/advrad
ENV PATH=/opt/advrad/bin:$PATH HOME=/data PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /data
# The history and the images. The rest may be read-only, with a tmpfs at /tmp.
VOLUME /data
EXPOSE 8000
# Ready means: the history answers, the keys can be read, and it is not stopping.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# SIGTERM finishes what was taken.
STOPSIGNAL SIGTERM
ENTRYPOINT ["advrad", "serve", "--host", "0.0.0.0", "--data", "/data", "--keys", "/keys/keys"]
CMD ["product=/models/product"]
