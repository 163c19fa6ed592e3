//! Every setting, described once: its key, variable, kind, default, meaning and unit.
//!
//! Read by `config` (which resolves values) and by `penstock config` (which prints them).

/// What a value must look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// `host:port`.
    Address,
    /// A path.
    Path,
    /// A list of paths; in a variable separated by `:`.
    Paths,
    /// A list of names; in a variable separated by `,`.
    Names,
    /// A whole number between the two, both allowed.
    Integer(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The name of a header, in lower case, or nothing.
    Header,
    /// Anything.
    Text,
}

/// One setting.
pub(crate) struct Field {
    /// Dotted key in the TOML file.
    pub(crate) key: &'static str,
    /// Environment variable that overrides it.
    pub(crate) variable: &'static str,
    pub(crate) kind: Kind,
    /// Default, as it would be written in a variable. `~` stands for the home directory.
    pub(crate) default: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) meaning: &'static str,
}

mod control;
mod ec2;
mod instances;
mod machine;
mod state;
mod work;

/// All settings, in the order they are printed.
pub(crate) fn fields() -> impl Iterator<Item = &'static Field> {
    let all = [machine::FIELDS, work::FIELDS, instances::FIELDS, ec2::FIELDS, control::FIELDS, state::FIELDS];
    all.into_iter().flatten()
}
