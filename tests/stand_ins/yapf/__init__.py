"""In place of the formatter yapf in the processes that tests start: code stays as it is.

mmengine lays a config out anew for its log, for its dump and for every checkpoint. That is a quarter of the time of a
training by a few steps, and no test reads the layout.
"""

__version__ = '0.43.0'
