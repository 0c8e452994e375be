"""What servers of a pool share, in etcd: members, quotas, who has how much.

Nobody else speaks to etcd. It is reached by its gateway of JSON over HTTP with the
standard library; no client of its own is needed.
"""
