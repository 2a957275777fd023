"""The four architectures of the migration path, on the same input topic and into the same window documents."""
