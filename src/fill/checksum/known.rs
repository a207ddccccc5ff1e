//! The checksum databases whose keys are known without being told: Go's own.

/// Names, and the keys that belong to them (`knownGOSUMDB` in the go command).
pub(super) const KNOWN: [(&str, &str); 1] =
    [("sum.golang.org", "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8")];
