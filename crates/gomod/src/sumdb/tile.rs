//! The paths of hash tiles.

/// A tile of the tree, full or partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Number of levels of the tree in the tile, 1 to 30.
    pub height: u8,
    /// The level of the tile.
    pub level: Level,
    /// The index within the level.
    pub index: u64,
    /// Number of hashes. A full tile has 2 to the power of its height.
    pub width: u32,
}

/// The level of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// The records of the tile at level 0, instead of their hashes.
    Data,
    /// A level of hashes, counted from the leaves.
    Hashes(u32),
}

impl Tile {
    /// Parses a path (`tile/8/0/x001/234.p/5`). Only the exact form is accepted.
    pub fn parse(path: &str) -> Option<Self> {
        let mut elements = path.strip_prefix("tile/")?.split('/');
        let height = small(elements.next()?).filter(|height| (1..=30).contains(height))?;
        let level = match elements.next()? {
            "data" => Level::Data,
            level => Level::Hashes(small(level)?),
        };
        let mut tile = Self { height: u8::try_from(height).ok()?, level, index: 0, width: 1 << height };
        let mut groups = elements;
        loop {
            let group = groups.next()?;
            let (digits, more) = match group.strip_prefix('x') {
                Some(digits) => (digits, true),
                None => (group.strip_suffix(".p").unwrap_or(group), false),
            };
            if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            tile.index = tile.index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
            if more {
                continue;
            }
            if group.ends_with(".p") {
                tile.width = small(groups.next()?)?;
            }
            break;
        }
        // Leading zero groups, and a full tile written as a partial one, have another exact form.
        (groups.next().is_none() && (1..=1 << height).contains(&tile.width) && tile.path() == path)
            .then_some(tile)
    }

    /// Returns the path of the tile.
    pub fn path(&self) -> String {
        let mut index = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            index = format!("x{:03}/{index}", rest % 1000);
            rest /= 1000;
        }
        let level = match self.level {
            Level::Data => "data".to_owned(),
            Level::Hashes(level) => level.to_string(),
        };
        let partial = if self.is_whole() { String::new() } else { format!(".p/{}", self.width) };
        format!("tile/{}/{level}/{index}{partial}", self.height)
    }

    /// Returns whether the tile is full, so that it never changes.
    pub fn is_whole(&self) -> bool {
        u64::from(self.width) == 1 << self.height
    }
}

/// Parses a short decimal number. Its exact form is checked by comparing the path.
fn small(text: &str) -> Option<u32> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_partial_tile_is_narrower_than_a_full_one() {
        assert!(Tile::parse("tile/8/0/000.p/255").is_some_and(|tile| !tile.is_whole()));
        for bad in [
            "tile/8/0/000.p/0",
            "tile/8/0/000.p/257",
            "tile/8/0/000.p/05",
            "tile/8/0/000.p/+5",
            "tile/8/0/x000/001",
        ] {
            assert_eq!(Tile::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_path_parses_to_the_same_tile(height in 1u8..=30, level in proptest::option::of(0u32..70), index in any::<u64>(), part in any::<u32>()) {
            let level = level.map_or(Level::Data, Level::Hashes);
            let tile = Tile { height, level, index, width: part % (1 << height) + 1 };
            prop_assert_eq!(Tile::parse(&tile.path()), Some(tile));
        }

        #[test]
        fn a_tile_has_exactly_one_path(path in "tile/[0-9]{1,2}/(data|[0-9])/(x[0-9]{3}/){0,2}[0-9]{3}(\\.p/[0-9]{1,3})?") {
            if let Some(tile) = Tile::parse(&path) {
                prop_assert_eq!(tile.path(), path);
            }
        }
    }
}
