"""Syntax highlighting of configurations of the switch, and of HAProxy, for Pygments."""

from __future__ import annotations

from typing import ClassVar

from pygments.lexer import RegexLexer, bygroups
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String, Text, Whitespace


class ConfigurationLexer(RegexLexer):
    """The configuration language of ktcpvs."""

    name = "ktcpvs"
    aliases: ClassVar[list[str]] = ["ktcpvs"]
    tokens: ClassVar[dict[str, list[object]]] = {
        "root": [
            (r"#.*$", Comment.Single),
            (r'"(?:\\.|[^"\\])*"', String),
            (r"\b(Virtual)(\s+)([^\s{]+)", bygroups(Keyword.Namespace, Whitespace, Name.Class)),
            (r"\b(global|include)\b", Keyword.Namespace),
            (r"([a-z_0-9]+)(\s*)(=)", bygroups(Name.Attribute, Whitespace, Operator)),
            (r"->", Operator),
            (r"[{}]", Punctuation),
            (
                r"\b(?:server|use|path|host|pattern|method|header|cookie|query|from|name|rate|burst|balance|redirect|respond"
                r"|not|tls|sni|share|port|file|h2|proxy|backup|priority)\b",
                Keyword,
            ),
            (r"\b\d[\d.:]*(?:/\w+)?\b", Number),
            (r"\s+", Whitespace),
            (r"\S+?(?=[\s{}=])|\S", Text),
        ]
    }


class HAProxyLexer(RegexLexer):
    """Configurations of HAProxy."""

    name = "HAProxy"
    aliases: ClassVar[list[str]] = ["haproxy"]
    tokens: ClassVar[dict[str, list[object]]] = {
        "root": [
            (r"#.*$", Comment.Single),
            (r'"(?:\\.|[^"\\])*"', String),
            (r"^(global|defaults|frontend|backend|listen|resolvers)\b(.*)$", bygroups(Keyword.Namespace, Name.Class)),
            (r"^(\s+)([\w-]+)", bygroups(Whitespace, Name.Attribute)),
            (r"\b\d[\d.:]*\w*\b", Number),
            (r"\s+", Whitespace),
            (r"\S+", Text),
        ]
    }
