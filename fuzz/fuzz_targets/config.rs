//! Whatever stands in `bellwether.toml`, it is understood or refused, and the command line goes
//! before it.

#![no_main]
#![allow(dead_code)] // of these modules, the program uses more

#[path = "../../crates/bellwether/auth.rs"]
mod auth;
#[path = "../../crates/bellwether/cli.rs"]
mod cli;
#[path = "../../crates/bellwether/config.rs"]
mod config;
#[path = "../../crates/bellwether/edge.rs"]
mod edge;

use libfuzzer_sys::fuzz_target;
use std::{net::SocketAddr, time::Duration};

const LISTEN: &str = "127.0.0.1:4711";

fuzz_target!(|text: &str| {
    let args = ["bellwether", "serve", "--listen", LISTEN];
    match config::understand(text, args.map(Into::into).to_vec()) {
        Ok((Ok(cli), snapshots)) => {
            let hub = cli.command.hub().expect("it is to serve");
            assert_eq!(hub.listen, LISTEN.parse::<SocketAddr>().unwrap());
            for snapshot in snapshots {
                assert!(!snapshot.name.is_empty());
                assert!(snapshot.every >= Duration::from_millis(100));
            }
        }
        Ok((Err(why), _)) => assert!(!why.to_string().is_empty()),
        Err(why) => assert!(!format!("{why:#}").is_empty()),
    }
});
