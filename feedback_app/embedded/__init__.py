"""A broker and a database that run beside the application: for the demo and for tests, never for production."""
