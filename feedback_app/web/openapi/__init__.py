"""The description of the HTTP API, served at ``/feedback/openapi.json``.

It is written by hand, not taken from the code that answers: tests hold what workers really answer to it.
"""
