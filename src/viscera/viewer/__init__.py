"""The page on which a CT and its organs are looked at: served to a browser on this machine, or as one file.

`page.py` makes the page's HTML, `server.py` serves it for `viscera view`, `html_report.py` makes the single file of
`viscera report`; `assets/` holds the page's own script and style, and NiiVue, which draws the interactive pictures
(docs/decisions/0012-viewer.md).
"""
