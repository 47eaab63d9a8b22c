"""Alembic's door to the migrations; `posthouse.store.opening` calls it with a connection at hand."""

from alembic import context

from posthouse.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
