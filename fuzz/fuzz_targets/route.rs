//! Any request target. The names in a route lead back to the same route.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::Route;
use stoa_gomod::route::classify;

fuzz_target!(|target: &str| {
    let get = |target: &str| classify("GET", target, "/", &["db.example", "db.example/v2"]);
    let route = get(target);
    let again = match &route {
        Route::List(path) => format!("/{}/@v/list", path.escaped()),
        Route::Latest(path) => format!("/{}/@latest", path.escaped()),
        Route::Info(pair) => format!("/{}/@v/{}.info", pair.path().escaped(), pair.version().escaped()),
        Route::Mod(pair) => format!("/{}/@v/{}.mod", pair.path().escaped(), pair.version().escaped()),
        Route::Zip(pair) => format!("/{}/@v/{}.zip", pair.path().escaped(), pair.version().escaped()),
        Route::SumdbTile { sumdb, tile, .. } => format!("/sumdb/{sumdb}/{}", tile.path()),
        _ => return,
    };
    assert_eq!(get(&again), route);
});
