//! Reads `config.pbtxt`: protobuf text format into [`ModelConfig`].
//!
//! Called by the repository scan. Never touches a file. A parser of our own, over the descriptors: the text format
//! parser of prost-reflect 0.16 refuses messages in lists without a colon (`input [ { … } ]`, which is how nearly all
//! of these files are written) and keeps the place of an error to itself. The language is what both C++ protobuf
//! (which Triton uses) and Python protobuf accept, and a byte order mark, which editors add and neither skips.

use crate::descriptors::{model_config, nearest, to_config};
use crate::text_lexer::{Lexer, Token, TokenKind, position};
use penstock_domain::ErrorCode;
use penstock_proto::inference::ModelConfig;
use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value};
use std::collections::BTreeSet;

mod literal;

/// What is wrong with a text, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct TextFormatError {
    /// Name of the file, as given.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What was found and what was expected.
    pub message: String,
}

impl TextFormatError {
    /// Always the writer's mistake.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

/// A configuration, and which of its fields were written down.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Document {
    /// The content.
    pub config: ModelConfig,
    /// Names of the top-level fields that were given, even if with their default: `max_batch_size: 0` says something.
    pub written: BTreeSet<String>,
}

/// Reads a configuration. `file` is only used in errors.
pub fn parse(file: &str, text: &str) -> Result<ModelConfig, TextFormatError> {
    Ok(parse_document(file, text)?.config)
}

/// Reads a configuration and remembers what was written. `file` is only used in errors.
pub fn parse_document(file: &str, text: &str) -> Result<Document, TextFormatError> {
    let mut parser = Parser::new(text);
    let mut message = DynamicMessage::new(model_config());
    let mut written = BTreeSet::new();
    parser
        .fields(&mut message, None, |name| {
            written.insert(name.to_owned());
        })
        .map_err(|Fault { offset, message }| {
            let (line, column) = position(text, offset);
            TextFormatError { file: file.to_owned(), line, column, message }
        })?;
    Ok(Document { config: to_config(&message), written })
}

/// A [`TextFormatError`] before its place is known by line.
struct Fault {
    offset: usize,
    message: String,
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token<'a>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        let mut lexer = Lexer::new(text);
        let token = lexer.next_token();
        Self { lexer, token }
    }

    /// Reads fields up to `end` (the end of the text if `None`), which it takes. The depth is bounded by the schema,
    /// whose messages do not contain themselves.
    fn fields(
        &mut self,
        message: &mut DynamicMessage,
        end: Option<&'static str>,
        mut seen: impl FnMut(&str),
    ) -> Result<(), Fault> {
        loop {
            match (end, self.token.kind) {
                (None, TokenKind::End) => return Ok(()),
                (Some(end), _) if self.take(end) => return Ok(()),
                (_, TokenKind::Word) => {
                    let name = self.bump();
                    let field = find_field(&message.descriptor(), name)?;
                    self.field(message, &field, name)?;
                    seen(field.name());
                    let _separator = self.take(",") || self.take(";");
                }
                (None, _) => return Err(self.expected("a field name")),
                (Some(end), _) => return Err(self.expected(&format!("a field name or '{end}'"))),
            }
        }
    }

    fn field(&mut self, message: &mut DynamicMessage, field: &FieldDescriptor, name: Token<'a>) -> Result<(), Fault> {
        if let Some(other) = other_member_of_oneof(message, field) {
            return Err(Fault {
                offset: name.offset,
                message: format!("'{}' cannot be set beside '{other}': choose one of them", field.name()),
            });
        }
        let is_message = matches!(field.kind(), Kind::Message(_));
        if !self.take(":") && !is_message {
            return Err(self.expected(&format!("':' after '{}'", field.name())));
        }
        if field.is_list() || field.is_map() {
            return self.values(message, field);
        }
        // As other readers do: a field without presence counts as set when it differs from its default.
        if message.has_field(field) {
            return Err(Fault { offset: name.offset, message: format!("'{}' is given more than once", field.name()) });
        }
        let value = self.value(&field.kind())?;
        message.set_field(field, value);
        Ok(())
    }

    /// One value, or a list of values in brackets, of a repeated field.
    fn values(&mut self, message: &mut DynamicMessage, field: &FieldDescriptor) -> Result<(), Fault> {
        if !self.take("[") {
            let value = self.value(&field.kind())?;
            append(message, field, value);
            return Ok(());
        }
        if self.take("]") {
            return Ok(());
        }
        loop {
            let value = self.value(&field.kind())?;
            append(message, field, value);
            if self.take("]") {
                return Ok(());
            }
            if !self.take(",") {
                return Err(self.expected(&format!("',' or ']' in the list of '{}'", field.name())));
            }
        }
    }

    fn value(&mut self, kind: &Kind) -> Result<Value, Fault> {
        match kind {
            Kind::Message(descriptor) => self.message(descriptor),
            Kind::Enum(descriptor) => self.enumeration(descriptor),
            Kind::String => self.string(),
            _ => {
                let value = literal::scalar(kind, self.token.text).map_err(|expected| self.expected(&expected))?;
                self.bump();
                Ok(value)
            }
        }
    }

    fn message(&mut self, descriptor: &MessageDescriptor) -> Result<Value, Fault> {
        let end = if self.take("{") {
            "}"
        } else if self.take("<") {
            ">"
        } else {
            return Err(self.expected(&format!("'{{' to start a {}", descriptor.name())));
        };
        let mut message = DynamicMessage::new(descriptor.clone());
        self.fields(&mut message, Some(end), |_| {})?;
        Ok(Value::Message(message))
    }

    fn enumeration(&mut self, descriptor: &EnumDescriptor) -> Result<Value, Fault> {
        let text = self.token.text;
        let number = match self.token.kind {
            TokenKind::Word => descriptor.get_value_by_name(text).map(|value| value.number()),
            TokenKind::Number => literal::integer(text).and_then(|number| i32::try_from(number).ok()),
            _ => None,
        };
        let Some(number) = number else {
            let names: Vec<String> = descriptor.values().map(|value| value.name().to_owned()).collect();
            return Err(self.expected(&format!("a {} ({})", descriptor.name(), names.join(", "))));
        };
        self.bump();
        Ok(Value::EnumNumber(number))
    }

    /// One string, or several in a row, which are joined.
    fn string(&mut self) -> Result<Value, Fault> {
        let start = self.token.offset;
        let mut bytes = Vec::new();
        if self.token.kind != TokenKind::Quoted {
            return Err(self.expected("a string in quotes"));
        }
        while matches!(self.token.kind, TokenKind::Quoted | TokenKind::Unterminated) {
            if self.token.kind == TokenKind::Unterminated {
                return Err(self.expected("a string in quotes"));
            }
            let inner = &self.token.text[1..self.token.text.len() - 1];
            literal::unescape(inner, &mut bytes)
                .map_err(|(at, message)| Fault { offset: self.token.offset + 1 + at, message })?;
            self.bump();
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| Fault { offset: start, message: "the string is not UTF-8 once unescaped".to_owned() })?;
        Ok(Value::String(text))
    }

    /// Takes the symbol if it is next.
    fn take(&mut self, symbol: &str) -> bool {
        let taken = self.token.kind == TokenKind::Symbol && self.token.text == symbol;
        if taken {
            self.bump();
        }
        taken
    }

    fn bump(&mut self) -> Token<'a> {
        std::mem::replace(&mut self.token, self.lexer.next_token())
    }

    fn expected(&self, what: &str) -> Fault {
        let found = match self.token.kind {
            TokenKind::End => "the end of the file".to_owned(),
            TokenKind::Unterminated => format!("a string without its closing {}", &self.token.text[..1]),
            _ => format!("'{}'", shortened(self.token.text)),
        };
        Fault { offset: self.token.offset, message: format!("expected {what}, found {found}") }
    }
}

fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 40;
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn find_field(descriptor: &MessageDescriptor, name: Token<'_>) -> Result<FieldDescriptor, Fault> {
    descriptor.get_field_by_name(name.text).ok_or_else(|| {
        let fields: Vec<FieldDescriptor> = descriptor.fields().collect();
        let hint = nearest(name.text, fields.iter().map(|field| field.name()))
            .map(|near| format!("; did you mean '{near}'?"))
            .unwrap_or_default();
        let owner = if descriptor.is_map_entry() { "a map entry" } else { descriptor.name() };
        Fault { offset: name.offset, message: format!("{owner} has no field '{}'{hint}", shortened(name.text)) }
    })
}

/// The name of another field of the same oneof that is set already.
fn other_member_of_oneof(message: &DynamicMessage, field: &FieldDescriptor) -> Option<String> {
    let oneof = field.containing_oneof()?;
    let other = oneof.fields().find(|other| other != field && message.has_field(other))?;
    Some(other.name().to_owned())
}

/// Adds a value to a list or a map. A key that comes again replaces, a key or value left out is its default.
pub(crate) fn append(message: &mut DynamicMessage, field: &FieldDescriptor, value: Value) {
    match (message.get_field_mut(field), value) {
        (Value::List(list), value) => list.push(value),
        (Value::Map(map), Value::Message(entry)) => {
            let descriptor = entry.descriptor();
            let key = entry.get_field(&descriptor.map_entry_key_field()).into_owned().into_map_key();
            let value = entry.get_field(&descriptor.map_entry_value_field()).into_owned();
            map.insert(key.expect("the schema allows only key types as keys"), value);
        }
        _ => unreachable!("only called for repeated fields, with values of their kind"),
    }
}
