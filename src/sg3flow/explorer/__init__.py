"""A generator in the browser: ``sg3flow explore``, and the page at ``/`` of ``sg3flow serve``."""
