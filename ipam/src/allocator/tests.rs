use super::*;

mod restart;
mod scenarios;
