"""A self-learning search tuner for PostgreSQL and pgvector."""

__version__ = "0.1.0"
