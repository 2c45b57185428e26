//! A load balancer for HTTP proxies.
