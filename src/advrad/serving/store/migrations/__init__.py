"""The history of the tables, as steps of Alembic that are run when a database is opened.

To change a table: change ``tables.py``, and add ``versions/vNNNN_WORDS.py`` with the next number as ``revision``, the
one before as ``down_revision``, and ``upgrade``. Steps that were released do not change. There is no way back: an older
advrad refuses a newer database.
"""
