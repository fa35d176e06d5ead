"""The routes of the broker's API, by who calls them.  Each module has `register(app, deps)`; openapi.py documents each route."""
