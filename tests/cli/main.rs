//! The real programs, on stores and upstreams made here: what they print, store, refuse and serve.
#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking, and break stores by hand"
)]

mod access;
mod access_log;
mod answers;
mod as_go;
mod audit;
mod backup;
mod bucket_carry;
mod bucket_commands;
mod bucket_crowd;
mod bucket_damage;
mod bucket_faults;
mod bucket_index;
mod bucket_meanwhile;
mod bucket_outage;
mod bucket_programs;
mod bucket_read_only;
mod bucket_serve;
mod bucket_servers;
mod bucket_services;
mod bucket_sweep;
mod bucket_upgrade;
mod carry;
mod check;
mod checksum;
mod command_line;
mod commands;
mod concurrency;
mod config;
mod copies;
mod crowds;
mod direct;
mod disk_errors;
mod egress;
mod eviction;
mod fetch;
mod flights;
mod forward_proxy;
mod full_disk;
mod fuse;
mod gate;
mod golden;
mod guide;
mod held;
mod hostile;
mod https;
mod import_config;
mod index;
mod install;
mod leftovers;
mod listeners;
mod metrics;
mod migrate;
mod old_stores;
mod overlay;
mod pages;
mod pairs;
mod peer_roots;
mod peers;
mod policy;
mod progress;
mod publication;
mod removal;
mod resolving;
mod server_log;
mod staging;
mod symlinks;
mod texts;
mod threads;
mod tidy;
mod times;
mod tls_client;
mod verify;

fn main() {
    let modules = vec![
        ("access", access::cases()),
        ("access_log", access_log::cases()),
        ("answers", answers::cases()),
        ("as_go", as_go::cases()),
        ("audit", audit::cases()),
        ("backup", backup::cases()),
        ("bucket_carry", bucket_carry::cases()),
        ("bucket_commands", bucket_commands::cases()),
        ("bucket_crowd", bucket_crowd::cases()),
        ("bucket_damage", bucket_damage::cases()),
        ("bucket_faults", bucket_faults::cases()),
        ("bucket_index", bucket_index::cases()),
        ("bucket_meanwhile", bucket_meanwhile::cases()),
        ("bucket_outage", bucket_outage::cases()),
        ("bucket_read_only", bucket_read_only::cases()),
        ("bucket_serve", bucket_serve::cases()),
        ("bucket_servers", bucket_servers::cases()),
        ("bucket_services", bucket_services::cases()),
        ("bucket_sweep", bucket_sweep::cases()),
        ("bucket_upgrade", bucket_upgrade::cases()),
        ("carry", carry::cases()),
        ("check", check::cases()),
        ("checksum", checksum::cases()),
        ("command_line", command_line::cases()),
        ("commands", commands::cases()),
        ("concurrency", concurrency::cases()),
        ("config", config::cases()),
        ("copies", copies::cases()),
        ("crowds", crowds::cases()),
        ("direct", direct::cases()),
        ("disk_errors", disk_errors::cases()),
        ("egress", egress::cases()),
        ("eviction", eviction::cases()),
        ("fetch", fetch::cases()),
        ("flights", flights::cases()),
        ("forward_proxy", forward_proxy::cases()),
        ("full_disk", full_disk::cases()),
        ("fuse", fuse::cases()),
        ("gate", gate::cases()),
        ("golden", golden::cases()),
        ("guide", guide::cases()),
        ("held", held::cases()),
        ("hostile", hostile::cases()),
        ("import_config", import_config::cases()),
        ("index", index::cases()),
        ("install", install::cases()),
        ("leftovers", leftovers::cases()),
        ("listeners", listeners::cases()),
        ("metrics", metrics::cases()),
        ("migrate", migrate::cases()),
        ("old_stores", old_stores::cases()),
        ("overlay", overlay::cases()),
        ("pages", pages::cases()),
        ("pairs", pairs::cases()),
        ("peer_roots", peer_roots::cases()),
        ("peers", peers::cases()),
        ("policy", policy::cases()),
        ("progress", progress::cases()),
        ("publication", publication::cases()),
        ("removal", removal::cases()),
        ("resolving", resolving::cases()),
        ("server_log", server_log::cases()),
        ("staging", staging::cases()),
        ("symlinks", symlinks::cases()),
        ("texts", texts::cases()),
        ("threads", threads::cases()),
        ("tidy", tidy::cases()),
        ("times", times::cases()),
        ("verify", verify::cases()),
    ];
    testkit::run(testkit::built!(), modules);
}
