//! Answers in XML, as a tree: names without their name spaces, texts, no attributes.
//!
//! Called with every answer of EC2 and STS. Pure.

use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

/// Elements inside each other: AWS's answers have a dozen.
const DEPTH_MAX: usize = 64;

/// One element.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Reads the root element. Errors: what is wrong with the text.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut reader = Reader::from_str(text);
        // The first holds the root.
        let mut open = vec![Self::default()];
        loop {
            match reader.read_event().map_err(|error| error.to_string())? {
                Event::Start(start) if open.len() < DEPTH_MAX => open.push(Self::named(&start)),
                Event::Start(_) => return Err(format!("more than {DEPTH_MAX} elements inside each other")),
                Event::Empty(start) => inner(&mut open)?.children.push(Self::named(&start)),
                Event::Text(text) => {
                    let text = text.decode().map_err(|error| error.to_string())?;
                    inner(&mut open)?.text.push_str(&text);
                }
                Event::CData(text) => {
                    let text = text.decode().map_err(|error| error.to_string())?;
                    inner(&mut open)?.text.push_str(&text);
                }
                Event::GeneralRef(reference) => {
                    let name = reference.decode().map_err(|error| error.to_string())?;
                    let text = match reference.resolve_char_ref().map_err(|error| error.to_string())? {
                        Some(letter) => letter.to_string(),
                        None => resolve_predefined_entity(&name).ok_or(format!("&{name}; is not known"))?.to_owned(),
                    };
                    inner(&mut open)?.text.push_str(&text);
                }
                Event::End(_) => {
                    let mut done = open.pop().ok_or("an element ends that did not begin")?;
                    if !done.children.is_empty() {
                        done.text.clear();
                    }
                    inner(&mut open)?.children.push(done);
                }
                Event::Eof => break,
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) | Event::DocType(_) => {}
            }
        }
        let root = open.pop().filter(|_| open.is_empty()).and_then(|mut outer| outer.children.pop());
        root.ok_or_else(|| "no whole element".to_owned())
    }

    fn named(start: &BytesStart<'_>) -> Self {
        Self { name: String::from_utf8_lossy(start.local_name().as_ref()).into_owned(), ..Self::default() }
    }

    /// The first element of this name in it, an empty one if there is none: what is missing reads as nothing.
    pub(crate) fn child(&self, name: &str) -> &Self {
        static NONE: Element = Element { name: String::new(), text: String::new(), children: Vec::new() };
        self.children.iter().find(|child| child.name == name).unwrap_or(&NONE)
    }

    /// The text of the first element of this name in it; `None` if it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        Some(self.child(name).text.trim()).filter(|text| !text.is_empty())
    }

    /// The same, as a number or whatever else is read of text.
    pub(crate) fn parsed<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    /// The elements of a list in it, which are all called `item`.
    pub(crate) fn items(&self, list: &str) -> impl Iterator<Item = &Self> {
        self.child(list).children.iter().filter(|child| child.name == "item")
    }

    /// Its own text.
    pub(crate) fn own_text(&self) -> &str {
        self.text.trim()
    }
}

fn inner(open: &mut [Element]) -> Result<&mut Element, String> {
    open.last_mut().ok_or_else(|| "an element ends that did not begin".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_trees() {
        let text = "<?xml version=\"1.0\"?>\n<A xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\n  <set>\n    <item><id>i-1</id>\
                    <note>a &lt;b&gt; &amp; &#x63;<![CDATA[<d>]]></note></item><item><id>2</id></item></set><none/></A>";
        let root = Element::read(text).unwrap();
        let ids: Vec<_> = root.items("set").map(|item| item.text("id").unwrap()).collect();
        assert_eq!(ids, ["i-1", "2"]);
        assert_eq!(root.items("set").next().unwrap().text("note"), Some("a <b> & c<d>"));
        assert_eq!(root.items("set").nth(1).unwrap().parsed::<u32>("id"), Some(2));
        assert_eq!((root.text("none"), root.text("missing"), root.child("missing").text("x")), (None, None, None));
        for bad in ["", "<a>", "<a></b>", "<a>&who;</a>", "text", &"<a>".repeat(100)] {
            assert!(Element::read(bad).is_err(), "{bad}");
        }
    }
}
