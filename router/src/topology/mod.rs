//! The known graph of peers and the routes through it.

mod peers;
mod routes;
mod update;

pub use routes::Routes;
