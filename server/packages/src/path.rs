//! Which names a package's files may have: one function for archives, manifests and whoever else takes them.
//!
//! Called by `archive` and `manifest`. Looks at names only and never at a disk.

use std::collections::BTreeMap;

/// Longest component: what Linux file systems take, in bytes.
const COMPONENT_BYTES: usize = 255;
/// Longest path: leaves three quarters of Linux's `PATH_MAX` (4096) to the folder that packages lie in, in bytes.
const PATH_BYTES: usize = 1024;
/// Most components: enough for Python's deepest trees, and few enough that every walk ends soon.
const DEPTH: usize = 16;

/// What is wrong with a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It names nothing.
    #[error("it is empty; name a file")]
    Empty,
    /// Not from the package's root.
    #[error("it is absolute; paths are relative to the package's root")]
    Absolute,
    /// `C:` and the like.
    #[error("it begins with a drive letter; paths are relative to the package's root")]
    DriveLetter,
    /// Windows separates with these, others take them as part of a name.
    #[error("it has a backslash; folders are separated by /")]
    Backslash,
    /// NUL, a line end, an escape and the like.
    #[error("it has the control character U+{:04X}", *.0 as u32)]
    ControlCharacter(char),
    /// `a//b`, or a slash at the end.
    #[error("it has an empty component; separate folders by one /")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("it has the component {0:?}, which leads elsewhere; write the path without it")]
    Dots(&'static str),
    /// Longer than a file system takes.
    #[error("it has a component of {0} bytes; at most {COMPONENT_BYTES} are allowed")]
    LongComponent(usize),
    /// Too long as a whole.
    #[error("it has {0} bytes; at most {PATH_BYTES} are allowed")]
    LongPath(usize),
    /// Too many folders.
    #[error("it is {0} components deep; at most {DEPTH} are allowed")]
    Deep(usize),
    /// Bytes that are no text.
    #[error("it is not UTF-8; name files in UTF-8")]
    NotUtf8,
}

/// Whether a package may have a file or a folder of this path.
pub fn check_path(path: &str) -> Result<(), PathFault> {
    if path.is_empty() {
        return Err(PathFault::Empty);
    }
    if path.len() > PATH_BYTES {
        return Err(PathFault::LongPath(path.len()));
    }
    if let Some(found) = path.chars().find(|character| character.is_control()) {
        return Err(PathFault::ControlCharacter(found));
    }
    if path.contains('\\') {
        return Err(PathFault::Backslash);
    }
    if path.starts_with('/') {
        return Err(PathFault::Absolute);
    }
    if matches!(path.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic()) {
        return Err(PathFault::DriveLetter);
    }
    for component in path.split('/') {
        match component {
            "" => return Err(PathFault::EmptyComponent),
            "." => return Err(PathFault::Dots(".")),
            ".." => return Err(PathFault::Dots("..")),
            long if long.len() > COMPONENT_BYTES => return Err(PathFault::LongComponent(long.len())),
            _ => {}
        }
    }
    match path.split('/').count() {
        deep if deep > DEPTH => Err(PathFault::Deep(deep)),
        _ => Ok(()),
    }
}

/// Why names do not make one tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeFault {
    /// Named twice.
    #[error("{0:?} is there twice; name each file once")]
    Twice(String),
    /// Another file lies below it.
    #[error("{0:?} is both a file and a folder; rename one")]
    FileAndFolder(String),
}

/// What a name is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    /// A folder that no entry names: something lies below it.
    Implied,
}

/// Whether valid paths make one tree: each once, none both a file and a folder. Names that differ in case are two names.
pub(crate) fn check_tree<'a>(entries: impl Iterator<Item = (&'a str, Kind)>) -> Result<(), TreeFault> {
    let mut tree: BTreeMap<&str, Kind> = BTreeMap::new();
    for (path, kind) in entries {
        for (end, _) in path.match_indices('/') {
            let above = &path[..end];
            if *tree.entry(above).or_insert(Kind::Implied) == Kind::File {
                return Err(TreeFault::FileAndFolder(above.to_owned()));
            }
        }
        match tree.insert(path, kind) {
            None => {}
            Some(Kind::Implied) if kind == Kind::Folder => {}
            Some(before) if before == kind => return Err(TreeFault::Twice(path.to_owned())),
            Some(_) => return Err(TreeFault::FileAndFolder(path.to_owned())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn what_leads_elsewhere_or_reads_differently_elsewhere_is_refused() {
        let long = "a".repeat(256);
        let deep = "a/".repeat(16) + "b";
        let whole = ["a", "b", "c", "d"].map(|letter| letter.repeat(255)).join("/") + "/e";
        let table: &[(&str, PathFault)] = &[
            ("", PathFault::Empty),
            ("/etc/passwd", PathFault::Absolute),
            ("//host/share", PathFault::Absolute),
            ("../x", PathFault::Dots("..")),
            ("a/../../x", PathFault::Dots("..")),
            ("a/..", PathFault::Dots("..")),
            ("./x", PathFault::Dots(".")),
            ("a/./x", PathFault::Dots(".")),
            ("a//x", PathFault::EmptyComponent),
            ("a/", PathFault::EmptyComponent),
            ("..\\x", PathFault::Backslash),
            ("a\\x", PathFault::Backslash),
            ("C:/x", PathFault::DriveLetter),
            ("c:x", PathFault::DriveLetter),
            ("a\0.txt", PathFault::ControlCharacter('\0')),
            ("a\nb", PathFault::ControlCharacter('\n')),
            ("a\u{85}b", PathFault::ControlCharacter('\u{85}')),
            (&long, PathFault::LongComponent(256)),
            (&deep, PathFault::Deep(17)),
            (&whole, PathFault::LongPath(whole.len())),
        ];
        for (path, fault) in table {
            assert_eq!(check_path(path).as_ref(), Err(fault), "{path:?}");
        }
        for path in ["a", "...", "..a", ".hidden/x", "a b/ü/模型.onnx", "ab:c", "~/x", "-rf", &long[1..], &deep[2..]]
        {
            assert_eq!(check_path(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn names_make_one_tree() {
        let check = |names: &[&'static str]| {
            check_tree(names.iter().map(|name| match name.strip_suffix('/') {
                Some(folder) => (folder, Kind::Folder),
                None => (*name, Kind::File),
            }))
        };
        let both = |name: &str| Err(TreeFault::FileAndFolder(name.to_owned()));
        assert_eq!(check(&["a/b", "a/", "a/c", "A/b", "d/"]), Ok(()));
        assert_eq!(check(&["a", "b", "a"]), Err(TreeFault::Twice("a".to_owned())));
        assert_eq!(check(&["a/", "a/"]), Err(TreeFault::Twice("a".to_owned())));
        assert_eq!(check(&["a", "a/b"]), both("a"));
        assert_eq!(check(&["a/b/c", "a/b"]), both("a/b"));
        assert_eq!(check(&["a/", "a"]), both("a"));
        assert_eq!(check(&["a", "a/"]), both("a"));
    }

    proptest! {
        /// Whatever is accepted stays below the folder that it is joined to, and is made of the components it shows.
        #[test]
        fn an_accepted_path_stays_inside(path in r"([a-zA-Z.:\\/\x00-\x1fé]{0,3}/?){0,20}|\PC{0,40}") {
            if check_path(&path).is_ok() {
                let joined = Path::new("/root/package").join(&path);
                prop_assert!(joined.starts_with("/root/package"));
                prop_assert!(Path::new(&path).components().all(|part| matches!(part, Component::Normal(_))));
                let parts: Vec<_> = Path::new(&path).components().map(|part| part.as_os_str().to_str().unwrap()).collect();
                prop_assert_eq!(parts.join("/"), path);
            }
        }
    }
}
