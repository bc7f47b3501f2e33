//! `/livez`, `/readyz` and `/metrics` over tiny_http, and a JSON 404 for anything else.
