//! Whether a tree head is signed, before it is kept for clients.

use super::Checksums;

impl Checksums {
    /// Says what is wrong with a note of a database, if its key is known.
    pub(in crate::fill) fn fault_of_note(&self, name: &str, note: Option<&[u8]>) -> Option<String> {
        let database = self.database.as_ref().filter(|database| database.sumdb.name() == name)?;
        database.sumdb.verifier.verify(note?).err().map(|error| error.to_string())
    }
}
