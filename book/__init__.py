"""What executes and renders the book.

Papermill's imports would build a grammar of web addresses first, for a second and a half. No
notebook has an address to check, so its package is left out.
"""

import sys

sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
