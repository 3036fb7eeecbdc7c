"""What the drift monitor remembers, in both databases."""

from __future__ import annotations

from pathlib import Path

from advrad.serving.store import Store


def test_a_state_is_replaced_and_survives_a_restart(store: Store, db: str, tmp_path: Path) -> None:
    assert store.drift.load("screw", "m1") is None
    store.drift.save("screw", "m1", {"wealth": 1.0})
    store.drift.save("screw", "m2", {"wealth": 3.0})
    state = {"wealth": 0.1 + 0.2, "seen": ["01", None], "words": "ü\0", "many": list(range(5000))}
    store.drift.save("screw", "m1", state)
    with Store.open(db, tmp_path) as later:
        assert later.drift.load("screw", "m1") == state
        assert later.drift.load("screw", "m2") == {"wealth": 3.0}
        assert later.drift.load("nut", "m1") is None
