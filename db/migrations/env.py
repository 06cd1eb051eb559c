"""Alembic's entry: runs the revisions on the connection that `upgrade` hands over."""

from alembic import context

from cardlab.db.schema import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,
    # Alembic's SQLite dialect says that it has none; with transactions begun by hand it has, and half a
    # migration must be rolled back.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
