"""The admin port: console, API, metrics, the log's public files.

- `traffic.py` what workers counted, as rates and quantiles over time
- `access.py` who may see what: keys, roles, browser sessions
- `metrics.py` Prometheus
- `charts.py` SVG, server rendered
- `app.py` the routes; `templates/` and `static/` what they show
"""
