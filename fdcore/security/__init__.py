"""Who may do what: a pool's certificate authority, enrolment, roles, limits.

Only this folder imports cryptography. It knows sockets, files and certificates, and
neither Cap'n Proto (rpc/secure.py joins the two) nor leases.
"""
