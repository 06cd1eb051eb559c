"""Alembic's entry: runs the revisions on the connection that `upgrade` hands over."""

from alembic import context

from cardlab.db.schema import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
