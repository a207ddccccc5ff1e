//! Comparing a stored version with confirmed hashes.

use stoa_gomod::{H1, ModuleVersion};

use crate::files::Stamp;
use crate::publish::hash_of_mod;
use crate::{Claim, Objection, Record, Store, StoreError};

/// The result of comparing a stored version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// The version is not in the store, or was corrupt.
    Absent,
    /// The version has the confirmed hashes. Holds the hash of its zip.
    Same(H1),
    /// The version differs.
    Differs(Objection),
}

impl Store {
    /// Compares the claimed version with confirmed hashes, and moves it to quarantine if it differs. Reads the whole
    /// version if it has no seal.
    pub fn compare(&self, claim: &Claim, confirmed: &Record) -> Result<Compared, StoreError> {
        let version = claim.version();
        let folder = Stamp::at(&self.paths.version(version))?;
        let compared = self.compare_sealed(version, self.seal_claimed(claim)?, confirmed)?;
        if let (Compared::Differs(objection), Some(folder)) = (&compared, folder) {
            self.quarantine_if_same(claim, folder, &objection.to_string())?;
        }
        Ok(compared)
    }

    /// Compares a version with confirmed hashes, and changes nothing. For a read-only store.
    pub fn compare_only(&self, version: &ModuleVersion, confirmed: &Record) -> Result<Compared, StoreError> {
        self.compare_sealed(version, self.seal(version)?, confirmed)
    }

    fn compare_sealed(
        &self,
        version: &ModuleVersion,
        sealed: Option<H1>,
        confirmed: &Record,
    ) -> Result<Compared, StoreError> {
        let Some(h1) = sealed else { return Ok(Compared::Absent) };
        let gomod_h1 = hash_of_mod(&self.paths.version(version))?;
        Ok(match confirmed.objection(&h1, gomod_h1.as_ref()) {
            None => Compared::Same(h1),
            Some(objection) => Compared::Differs(objection),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, put_unsealed, quarantined, version, zip};
    use crate::{Published, Verdict};

    #[test]
    fn a_version_that_differs_from_its_verdict_moves_to_quarantine() {
        let v = version("example.com/m@v1.0.0");
        for is_sealed in [true, false] {
            let fixture = Fixture::new();
            let Published::Ours(h1) = fixture.publish(&v, &zip(&v, "package a\n")) else {
                panic!("not ours")
            };
            let claim = fixture.store.claim(&v).unwrap();
            let confirmed = |h1| Record {
                h1: Some(h1),
                verdict: Some(Verdict {
                    database: "sum.example".to_owned(),
                    tree_size: 1,
                    at: "t".to_owned(),
                }),
                ..Record::default()
            };
            let compare = |h1: &H1| fixture.store.compare(&claim, &confirmed(h1.clone())).unwrap();
            assert_eq!(compare(&h1), Compared::Same(h1.clone()));
            if !is_sealed {
                std::fs::remove_dir_all(fixture.store.paths.version(&v)).unwrap();
                put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
            }
            let other = H1::new(&format!("h1:{}=", "A".repeat(43))).unwrap();
            let Compared::Differs(objection) = compare(&other) else { panic!("it is the same") };
            assert!(objection.to_string().contains("the hash in the checksum database sum.example is"));
            assert_eq!(quarantined(fixture.dir.path()).len(), 1);
            assert_eq!(compare(&other), Compared::Absent);
        }
    }
}
