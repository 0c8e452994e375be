"""The web manager: what people see of a pool in a browser. `fdserver web` starts it.

A process of its own, and to servers a client like any other. Only pages.py and parts.py
know NiceGUI; model.py is what they show, as values.
"""
