"""Which workers there should be, from outside: a file that is watched, DNS, or Kubernetes.

settings.py          what a configuration may say
roster.py            what several sources say together, and what changed: no I/O
sources.py           the interface of a source; runs several
file_source.py       a YAML file, read again when it changes
dns_source.py        the addresses behind a name
endpoint_slices.py   Kubernetes' EndpointSlices as workers: no I/O
kubernetes_source.py the API server: list, then watch

A source that fails keeps its last word: workers are not dropped because nobody could be asked. That a listed
worker is up is for the prober to find out.
"""
