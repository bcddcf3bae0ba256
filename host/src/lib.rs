//! What a host needs around the router: links, addresses, routes, network namespaces.

pub mod netns;
