"""The help of an option, `option(default, help)`, is the text of its field on the site."""

import ast

import griffe


def plain(text: ast.expr) -> str:
    """The words of a string or an f-string, the latter's expressions as they are written."""
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    return "".join(str(p.value) if isinstance(p, ast.Constant) else f"`{ast.unparse(p.value)}`" for p in parts)


class Options(griffe.Extension):
    """Gives fields made by `option` their default and their help."""

    def on_attribute_instance(self, *, node, attr, **kwargs):
        """For every attribute that griffe reads."""
        made_by = getattr(node, "value", None)
        if isinstance(made_by, ast.Call) and ast.unparse(made_by.func) == "option":
            attr.value = ast.unparse(made_by.args[0])
            attr.docstring = griffe.Docstring(plain(made_by.args[1]), parent=attr)
