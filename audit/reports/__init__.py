"""Reports: one canonical JSON document, and renderings of it.

- `state`: which log, up to which size, with which root, as of when
- `document`: wraps a body into the report document, its bytes, its digest, its signature
- `figures`: numbers as people read them
- `charts`: SVG, drawn from integers
- `render`: Markdown and one-file HTML from the document alone
"""
