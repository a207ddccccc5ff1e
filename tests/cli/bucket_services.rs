//! The services of buckets, as the client in the programs sees them. The suites of buckets stand on this.

use testkit::bucket::Service;
use testkit::{Case, bucket_suite, slow, trial};

pub(crate) fn cases() -> Vec<Case> {
    let passes = |service: Service| {
        let name = format!("{service} passes the suite of object_store");
        trial(&name, None, move || bucket_suite::run(&service.start().bucket())).needs(service.needs())
    };
    slow(Service::ALL.map(passes).into())
}
