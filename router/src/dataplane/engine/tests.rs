mod frames;
mod links;
mod net;
