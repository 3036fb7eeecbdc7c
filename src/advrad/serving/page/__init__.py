"""The page of the service: what a person sees in the browser. It uses the HTTP interface as any other client does."""
