"""Plug-ins that are not part of Mantlet."""
