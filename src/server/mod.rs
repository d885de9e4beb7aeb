//! HTTP in front: accept, TLS, routes, the interception, drain.
