//! Proofs by tiles that a record is in a tree, and that an older tree is a prefix of a newer tree.
//!
//! The rules are those of `golang.org/x/mod/sumdb/tlog`. A tree with N records is a row of complete
//! subtrees, one for each bit set in N, largest first. Their hashes, combined from the right, are the hash
//! of the tree. A tile of height H has a row of up to 2^H hashes of one level; the levels between these
//! hashes and the tile's root are computed. The tiles with the row of subtrees are correct if they result
//! in the hash of the tree. Any other tile is correct if its root is the hash in its parent.
//!
//! A [`Proof`] lists the tiles that it needs, receives their contents, and trusts none of them before they
//! lead up to the hash of the tree. Callers get the tiles. Unlike in Go, a hash of the tree is identified
//! by its level and index instead of a running number, since no hashes are stored here.

use super::{Hash, Level, Tile, Tree, node_hash};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// The height of tiles in Go's client, and therefore in every database.
pub const TILE_HEIGHT: u8 = 8;

/// The size of a hash in bytes.
const HASH_BYTES: usize = 32;

/// The tiles that prove a hash of a tree.
#[derive(Debug, Clone)]
pub struct Proof {
    tree: Tree,
    /// The tiles, parents before their children.
    tiles: Vec<Tile>,
    /// The row of subtrees of the tree, with the tile of each. These tiles come first.
    row: Vec<(Node, usize)>,
    /// The wanted hashes: the row of subtrees of an older tree, or one record.
    wanted: Vec<(Node, usize)>,
    /// Each tile with its parent, and its hash in the parent.
    children: Vec<(usize, usize, Node)>,
}

/// The reason why tiles are not a proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The number of tiles is wrong.
    #[error("got {given} tiles, expected {asked}")]
    Number {
        /// The expected number.
        asked: usize,
        /// The given number.
        given: usize,
    },
    /// A tile has the wrong size.
    #[error("{path} has {given} bytes, expected {width} hashes of 32 bytes", path = tile.path(), width = tile.width)]
    Size {
        /// The tile.
        tile: Tile,
        /// Its size in bytes.
        given: usize,
    },
    /// The tiles do not result in the hash of the tree. It is unknown which tile is wrong.
    #[error("the tiles do not match the hash of the tree of {size} records")]
    Tree {
        /// The number of records of the tree.
        size: u64,
    },
    /// A tile does not match the hash in its parent.
    #[error("{path} does not match its parent tile", path = .0.path())]
    Tile(Tile),
}

impl Proof {
    /// Plans the proof of a record's hash. `None` if the tree has no such record, or if tiles cannot have
    /// this height.
    pub fn of_record(tree: &Tree, id: u64, height: u8) -> Option<Self> {
        (id < tree.size).then_some(())?;
        Self::of(tree, &[Node { level: 0, index: id }], height)
    }

    /// Plans the proof of the hash that the tree had with `size` records. `None` if it has fewer records,
    /// or if tiles cannot have this height.
    pub fn of_prefix(tree: &Tree, size: u64, height: u8) -> Option<Self> {
        (size <= tree.size).then_some(())?;
        Self::of(tree, &row_of(size), height)
    }

    /// Returns the needed tiles, in the order for [`hash`](Self::hash).
    pub fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    /// Verifies the contents of the tiles, and returns the hash of the record or of the older tree.
    pub fn hash<T: AsRef<[u8]>>(&self, contents: &[T]) -> Result<Hash, ProofError> {
        if contents.len() != self.tiles.len() {
            return Err(ProofError::Number { asked: self.tiles.len(), given: contents.len() });
        }
        let mut hashes = Vec::with_capacity(contents.len());
        for (tile, content) in self.tiles.iter().zip(contents) {
            hashes.push(hashes_of(tile, content.as_ref())?);
        }
        let read = |(node, tile): &(Node, usize)| hashes.get(*tile).map_or([0; 32], |tile| node.read(tile));
        if root_of(self.row.iter().map(read)) != self.tree.hash {
            return Err(ProofError::Tree { size: self.tree.size });
        }
        for (child, parent, node) in &self.children {
            let (Some(tile), Some(content)) = (self.tiles.get(*child), hashes.get(*child)) else { continue };
            if subtree(content) != read(&(*node, *parent)) {
                return Err(ProofError::Tile(*tile));
            }
        }
        Ok(root_of(self.wanted.iter().map(read)))
    }

    /// Plans a proof, like `tileHashReader.ReadHashes` in Go.
    fn of(tree: &Tree, wanted: &[Node], height: u8) -> Option<Self> {
        // Parsed tree heads have sizes in the range of Go's `int64`.
        if !(1..=30).contains(&height) || i64::try_from(tree.size).is_err() {
            return None;
        }
        let mut plan =
            Self { tree: tree.clone(), tiles: vec![], row: vec![], wanted: vec![], children: vec![] };
        let mut known: HashMap<Tile, usize> = HashMap::new();
        for node in row_of(tree.size) {
            let tile = above(&node.tile(height), 0, tree.size)?;
            let at = plan.add(tile, &mut known);
            plan.row.push((node, at));
        }
        for &node in wanted {
            let tile = node.tile(height);
            // Goes up to a tile that is already planned, and down again.
            let mut way = Vec::new();
            let mut at = loop {
                let tile = above(&tile, u32::try_from(way.len()).ok()?, tree.size)?;
                match known.get(&tile) {
                    Some(&at) => break at,
                    None => way.push(tile),
                }
            };
            for tile in way.into_iter().rev() {
                let Level::Hashes(level) = tile.level else { return None };
                let held = Node { level: (level + 1) * u32::from(height), index: tile.index };
                let child = plan.add(tile, &mut known);
                plan.children.push((child, at, held));
                at = child;
            }
            plan.wanted.push((node, at));
        }
        Some(plan)
    }

    fn add(&mut self, tile: Tile, known: &mut HashMap<Tile, usize>) -> usize {
        *known.entry(tile).or_insert_with(|| {
            self.tiles.push(tile);
            self.tiles.len() - 1
        })
    }
}

/// The root of the complete subtree number `index` with `2^level` records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    level: u32,
    index: u64,
}

impl Node {
    /// Returns the narrowest tile that contains the hash or the hashes below it.
    fn tile(self, height: u8) -> Tile {
        let (level, within) = (self.level / u32::from(height), self.level % u32::from(height));
        let index = (self.index << within) >> height;
        let width = self.end(height, index);
        Tile { height, level: Level::Hashes(level), index, width }
    }

    /// Returns the end of this node's hashes in the tile with this index.
    fn end(self, height: u8, tile: u64) -> u32 {
        let within = self.level % u32::from(height);
        let end = ((self.index + 1) << within) - (tile << height);
        u32::try_from(end).unwrap_or(1 << height)
    }

    /// Computes the node's hash from the hashes of its tile.
    fn read(self, (height, index, hashes): &TileHashes) -> Hash {
        let end = self.end(*height, *index) as usize;
        let begin = end - (1 << (self.level % u32::from(*height)));
        hashes.get(begin..end).map_or([0; 32], subtree_of)
    }
}

/// The height, index and hashes of a tile.
type TileHashes = (u8, u64, Vec<Hash>);

fn hashes_of(tile: &Tile, content: &[u8]) -> Result<TileHashes, ProofError> {
    let (hashes, rest) = content.as_chunks::<HASH_BYTES>();
    if !rest.is_empty() || hashes.len() != tile.width as usize {
        return Err(ProofError::Size { tile: *tile, given: content.len() });
    }
    Ok((tile.height, tile.index, hashes.to_vec()))
}

/// Returns the row of complete subtrees of a tree.
fn row_of(size: u64) -> Vec<Node> {
    let set = (0..u64::BITS).rev().filter(|level| size >> level & 1 == 1);
    // The larger subtrees before it cover the size without the lower bits.
    set.map(|level| Node { level, index: (size >> level) - 1 }).collect()
}

/// Combines a row of subtrees to the hash of a tree.
fn root_of(row: impl DoubleEndedIterator<Item = Hash>) -> Hash {
    let root = row.rev().reduce(|right, left| node_hash(&left, &right));
    root.unwrap_or_else(|| Sha256::digest([]).into())
}

fn subtree((_, _, hashes): &TileHashes) -> Hash {
    subtree_of(hashes)
}

/// Returns the root of a complete subtree over a power of two of hashes.
fn subtree_of(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => [0; 32],
        [hash] => *hash,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node_hash(&subtree_of(left), &subtree_of(right))
        }
    }
}

/// Returns the tile `steps` tile levels above, with its width in a tree of this size. `None` if the tree
/// has no such tile.
fn above(tile: &Tile, steps: u32, size: u64) -> Option<Tile> {
    let Level::Hashes(level) = tile.level else { return None };
    let (level, height) = (level + steps, u32::from(tile.height));
    let index = tile.index.checked_shr(steps * height).unwrap_or(0);
    let hashes = size.checked_shr(level * height).unwrap_or(0);
    let left = hashes.checked_sub(index << height).filter(|&left| left > 0)?;
    let width = u32::try_from(left).unwrap_or(u32::MAX).min(1 << height);
    Some(Tile { height: tile.height, level: Level::Hashes(level), index, width })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sumdb::record_hash;
    use proptest::prelude::*;

    /// A tree that has all of its hashes, level by level.
    struct Whole(Vec<Vec<Hash>>);

    impl Whole {
        fn new(size: u64) -> Self {
            let mut levels = vec![(0..size).map(|id| record_hash(&id.to_be_bytes())).collect::<Vec<_>>()];
            while let Some(below) = levels.last().filter(|below| below.len() > 1) {
                let (pairs, _) = below.as_chunks::<2>();
                levels.push(pairs.iter().map(|[left, right]| node_hash(left, right)).collect());
            }
            Self(levels)
        }

        /// The hash of a tree by its definition in RFC 6962, section 2.1.
        fn hash(&self, records: &[Hash]) -> Hash {
            match records {
                [] => Sha256::digest([]).into(),
                [one] => *one,
                _ => {
                    let (left, right) = records.split_at(records.len().next_power_of_two() / 2);
                    node_hash(&self.hash(left), &self.hash(right))
                }
            }
        }

        fn head(&self, size: usize) -> Tree {
            Tree { size: size as u64, hash: self.hash(&self.0[0][..size]) }
        }

        fn serve(&self, tile: &Tile) -> Vec<u8> {
            let Level::Hashes(level) = tile.level else { panic!("{tile:?}") };
            let first = (tile.index << tile.height) as usize;
            self.0[(level * u32::from(tile.height)) as usize][first..first + tile.width as usize].concat()
        }

        fn serve_all(&self, proof: &Proof) -> Vec<Vec<u8>> {
            proof.tiles().iter().map(|tile| self.serve(tile)).collect()
        }
    }

    #[test]
    fn every_record_and_every_older_tree_is_proved() {
        let whole = Whole::new(70);
        for height in [1, 2, 3, 8] {
            for size in 0..=70 {
                let head = whole.head(size);
                for id in 0..size {
                    let proof = Proof::of_record(&head, id as u64, height).unwrap();
                    assert_eq!(
                        proof.hash(&whole.serve_all(&proof)),
                        Ok(whole.0[0][id]),
                        "{height} {size} {id}"
                    );
                }
                assert!(Proof::of_record(&head, size as u64, height).is_none());
                for older in 0..=size {
                    let proof = Proof::of_prefix(&head, older as u64, height).unwrap();
                    let hash = proof.hash(&whole.serve_all(&proof));
                    assert_eq!(hash, Ok(whole.head(older).hash), "{height} {size} {older}");
                }
                assert!(Proof::of_prefix(&head, size as u64 + 1, height).is_none());
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_detected() {
        let whole = Whole::new(23);
        for size in [1, 2, 7, 16, 23] {
            let head = whole.head(size);
            let proofs = [
                Proof::of_record(&head, 0, 2).unwrap(),
                Proof::of_record(&head, size as u64 / 2, 2).unwrap(),
                Proof::of_prefix(&head, size as u64 / 3, 2).unwrap(),
            ];
            for proof in proofs {
                let good = whole.serve_all(&proof);
                for (n, at) in
                    good.iter().enumerate().flat_map(|(n, tile)| (0..tile.len()).map(move |at| (n, at)))
                {
                    for bit in 0..8 {
                        let mut bad = good.clone();
                        bad[n][at] ^= 1 << bit;
                        let hash = proof.hash(&bad);
                        assert!(
                            matches!(hash, Err(ProofError::Tree { .. } | ProofError::Tile(_))),
                            "{size} {n} {at}"
                        );
                    }
                }
                let mut other = head.clone();
                for bit in 0..256 {
                    other.hash[bit / 8] ^= 1 << (bit % 8);
                    let proof = Proof { tree: other.clone(), ..proof.clone() };
                    assert_eq!(proof.hash(&good), Err(ProofError::Tree { size: size as u64 }));
                    other.hash[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
    }

    #[test]
    fn tiles_of_the_wrong_size_are_rejected() {
        let whole = Whole::new(9);
        let proof = Proof::of_record(&whole.head(9), 4, 2).unwrap();
        let good = whole.serve_all(&proof);
        for n in 0..good.len() {
            for wrong in [0, 1, good[n].len() - 1, good[n].len() + 1, good[n].len() + 32] {
                let mut bad = good.clone();
                bad[n].resize(wrong, 0);
                assert_eq!(proof.hash(&bad), Err(ProofError::Size { tile: proof.tiles()[n], given: wrong }));
            }
        }
        let less = proof.hash(&good[1..]);
        assert_eq!(less, Err(ProofError::Number { asked: good.len(), given: good.len() - 1 }));
    }

    #[test]
    fn the_tiles_are_the_same_as_in_go() {
        // The example in tileHashReader.ReadHashes: height 2, 15 records, the second of them.
        let proof = Proof::of_record(&Whole::new(15).head(15), 1, 2).unwrap();
        let paths: Vec<String> = proof.tiles().iter().map(Tile::path).collect();
        assert_eq!(paths, ["tile/2/1/000.p/3", "tile/2/0/003.p/3", "tile/2/0/000"]);
    }

    proptest! {
        #[test]
        fn every_tree_has_a_plan(size in 0..=i64::MAX as u64, id: u64, height in 1..=30u8) {
            let head = Tree { size, hash: [7; 32] };
            for proof in [Proof::of_record(&head, id % size.max(1), height), Proof::of_prefix(&head, id % (size + 1), height)].into_iter().flatten() {
                prop_assert!(proof.tiles().len() < 200);
                for tile in proof.tiles() {
                    prop_assert_eq!(Tile::parse(&tile.path()), Some(*tile));
                }
                let empty = vec![Vec::new(); proof.tiles().len()];
                prop_assert!(proof.hash(&empty).is_err());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn trees_of_any_size_are_proved(size in 1..1200usize, other in 0..1200usize, height in 1..=8u8) {
            let whole = Whole::new(size as u64);
            let (head, other) = (whole.head(size), other % size);
            let record = Proof::of_record(&head, other as u64, height).unwrap();
            prop_assert_eq!(record.hash(&whole.serve_all(&record)), Ok(whole.0[0][other]));
            let older = Proof::of_prefix(&head, other as u64, height).unwrap();
            prop_assert_eq!(older.hash(&whole.serve_all(&older)), Ok(whole.head(other).hash));
        }
    }
}
