use super::*;

mod host;
mod members;
mod requests;
mod restart;
mod saving;
mod scenarios;
