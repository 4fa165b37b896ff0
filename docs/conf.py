"""How the documentation is built: `make docs`."""  # noqa: INP001

from importlib import metadata

from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

import torchmend

project = "torchmend"
version = release = metadata.version("torchmend")
project_copyright = "the torchmend authors"
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 2

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
# Names outside the package are not looked up: that would need the network at every build.
# Names inside it that are not public (say, `Scalar`) have no page of their own.
nitpick_ignore_regex = [("py:.*", r"(?!torchmend\.).*"), ("py:.*", r"torchmend\.[a-z_]+\..*")]

html_theme = "furo"
html_title = f"torchmend {release}"


def _public(app: Sphinx, _env: object, node: pending_xref, content: object) -> object:
    """Resolve `torchmend.facts.findings.Finding` to the entry of `torchmend.Finding`."""
    name = node.get("reftarget", "").rpartition(".")[2]
    if name not in torchmend.__all__ or node.get("refdomain") != "py":
        return None
    domain = app.env.domains.python_domain
    return domain.resolve_xref(
        app.env, node["refdoc"], app.builder, node.get("reftype", "obj"), f"torchmend.{name}", node, content
    )


def setup(app: Sphinx) -> None:
    """Register the resolver."""
    app.connect("missing-reference", _public)
