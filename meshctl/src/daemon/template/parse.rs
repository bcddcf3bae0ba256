//! From text to template.

use serde_json::Value;

use super::{BadTemplate, Branch, Call, Function, Node, Operand, Pipeline};

/// Branches and parentheses may be nested this deep.
const MAX_DEPTH: usize = 32;

/// Reads a whole template.
pub(super) fn template(text: &str) -> Result<Vec<Node>, BadTemplate> {
    let mut parts = split(text)?.into_iter();
    let (nodes, end) = nodes(&mut parts, 0)?;
    match end {
        None => Ok(nodes),
        Some(end) => Err(bad(format!("unexpected {{{{{}}}}}", end.word()))),
    }
}

/// A template cut at its braces.
enum Part<'a> {
    Text(&'a str),
    Action(Vec<Token>),
}

/// What ends a list of nodes.
enum End {
    End,
    Else(Option<Vec<Token>>),
}

impl End {
    fn word(&self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Else(_) => "else",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// `.` or `$`, whether it starts at the root, and the names behind it.
    Path(bool, Vec<String>),
    Literal(Value),
    Pipe,
    Open,
    Close,
}

fn bad(text: impl Into<String>) -> BadTemplate {
    BadTemplate(text.into())
}

fn split(text: &str) -> Result<Vec<Part<'_>>, BadTemplate> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    loop {
        let (before, action) = match rest.split_once("{{") {
            Some((before, behind)) => (before, Some(behind)),
            None => (rest, None),
        };
        let mut before = if trim_next {
            before.trim_start()
        } else {
            before
        };
        let Some(action) = action else {
            parts.push(Part::Text(before));
            return Ok(parts);
        };
        let trimmed = action
            .strip_prefix('-')
            .filter(|rest| rest.starts_with(char::is_whitespace));
        if trimmed.is_some() {
            before = before.trim_end();
        }
        parts.push(Part::Text(before));
        let action = trimmed.unwrap_or(action);
        let len = action_len(action)?;
        let (inside, behind) = action.split_at(len);
        rest = behind.strip_prefix("}}").unwrap_or(behind);
        let cut = inside
            .strip_suffix('-')
            .filter(|rest| rest.ends_with(char::is_whitespace));
        trim_next = cut.is_some();
        let inside = cut.unwrap_or(inside).trim();
        let comment = inside
            .strip_prefix("/*")
            .and_then(|rest| rest.strip_suffix("*/"));
        if comment.is_none() {
            parts.push(Part::Action(tokens(inside)?));
        }
    }
}

/// Where the action ends, not counting braces inside of strings.
fn action_len(action: &str) -> Result<usize, BadTemplate> {
    let mut quote = None;
    let mut escaped = false;
    for (position, char) in action.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if char == '\\' => escaped = true,
            Some(open) if char == open => quote = None,
            None if char == '"' || char == '`' => quote = Some(char),
            None if action[position..].starts_with("}}") => return Ok(position),
            _ => {}
        }
    }
    Err(bad("unclosed action"))
}

fn tokens(text: &str) -> Result<Vec<Token>, BadTemplate> {
    let is_name = |char: char| char.is_alphanumeric() || char == '_';
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, behind) = match first {
            '|' => (Token::Pipe, &rest[1..]),
            '(' => (Token::Open, &rest[1..]),
            ')' => (Token::Close, &rest[1..]),
            '"' => string(rest)?,
            '`' => {
                let (raw, behind) = rest[1..]
                    .split_once('`')
                    .ok_or_else(|| bad("unterminated string"))?;
                (Token::Literal(raw.into()), behind)
            }
            '.' | '$' => {
                let mut path = Vec::new();
                let mut behind = if first == '$' { &rest[1..] } else { rest };
                while let Some(field) = behind.strip_prefix('.') {
                    let len = field.find(|char| !is_name(char)).unwrap_or(field.len());
                    let (name, next) = field.split_at(len);
                    behind = next;
                    if !name.is_empty() {
                        path.push(name.to_owned());
                    } else if first == '$' || !path.is_empty() || next.starts_with('.') {
                        return Err(bad("a dot without a name"));
                    }
                }
                if behind.starts_with(is_name) {
                    return Err(bad(
                        "variables are not supported, but $ for the whole report",
                    ));
                }
                (Token::Path(first == '$', path), behind)
            }
            _ if is_name(first) || first == '-' => {
                let len = rest[first.len_utf8()..].find(|char| !is_name(char));
                let len = len.map_or(rest.len(), |len| len + first.len_utf8());
                let (word, behind) = rest.split_at(len);
                let token = match (word, word.parse::<i64>()) {
                    ("true", _) => Token::Literal(true.into()),
                    ("false", _) => Token::Literal(false.into()),
                    (_, Ok(number)) => Token::Literal(number.into()),
                    (word, Err(_)) => Token::Word(word.to_owned()),
                };
                (token, behind)
            }
            other => return Err(bad(format!("unexpected {other:?}"))),
        };
        tokens.push(token);
        rest = behind.trim_start();
    }
    Ok(tokens)
}

/// A quoted string: Go's escapes that JSON has as well.
fn string(text: &str) -> Result<(Token, &str), BadTemplate> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
    match values.next() {
        Some(Ok(value)) => {
            let behind = text.get(values.byte_offset()..).unwrap_or("");
            Ok((Token::Literal(value.into()), behind))
        }
        _ => Err(bad("a string that cannot be read")),
    }
}

type Parts<'a> = std::vec::IntoIter<Part<'a>>;

fn nodes(parts: &mut Parts<'_>, depth: usize) -> Result<(Vec<Node>, Option<End>), BadTemplate> {
    if depth > MAX_DEPTH {
        return Err(bad("nested too deep"));
    }
    let mut list = Vec::new();
    while let Some(part) = parts.next() {
        let tokens = match part {
            Part::Text("") => continue,
            Part::Text(text) => {
                list.push(Node::Text(text.to_owned()));
                continue;
            }
            Part::Action(tokens) => tokens,
        };
        let word = match tokens.first() {
            Some(Token::Word(word)) => word.as_str(),
            _ => "",
        };
        list.push(match (word, tokens.get(1..).unwrap_or(&[])) {
            ("end", []) => return Ok((list, Some(End::End))),
            ("else", []) => return Ok((list, Some(End::Else(None)))),
            ("else", [Token::Word(word), on @ ..]) if word == "if" => {
                return Ok((list, Some(End::Else(Some(on.to_vec())))));
            }
            ("range", on) => Node::Range(branch(on, parts, depth)?),
            ("if", on) => Node::If(branch(on, parts, depth)?),
            ("with", on) => Node::With(branch(on, parts, depth)?),
            _ => Node::Print(whole_pipeline(&tokens)?),
        });
    }
    Ok((list, None))
}

fn branch(on: &[Token], parts: &mut Parts<'_>, depth: usize) -> Result<Branch, BadTemplate> {
    let on = whole_pipeline(on)?;
    let (then, end) = nodes(parts, depth + 1)?;
    let otherwise = match end {
        Some(End::End) => Vec::new(),
        // The inner branch takes the end of the outer one as its own.
        Some(End::Else(Some(on))) => vec![Node::If(branch(&on, parts, depth + 1)?)],
        Some(End::Else(None)) => match nodes(parts, depth + 1)? {
            (otherwise, Some(End::End)) => otherwise,
            _ => return Err(bad("{{else}} without {{end}}")),
        },
        None => return Err(bad("missing {{end}}")),
    };
    Ok(Branch {
        on,
        then,
        otherwise,
    })
}

fn whole_pipeline(tokens: &[Token]) -> Result<Pipeline, BadTemplate> {
    let mut rest = tokens;
    let pipeline = pipeline(&mut rest, 0)?;
    match rest {
        [] => Ok(pipeline),
        _ => Err(bad("unexpected \")\"")),
    }
}

fn pipeline(tokens: &mut &[Token], depth: usize) -> Result<Pipeline, BadTemplate> {
    if depth > MAX_DEPTH {
        return Err(bad("nested too deep"));
    }
    let mut calls = Vec::new();
    loop {
        let call = match tokens.split_first() {
            Some((Token::Word(word), rest)) => {
                *tokens = rest;
                let function = match word.as_str() {
                    "json" => Function::Json,
                    "len" => Function::Len,
                    "index" => Function::Index,
                    "not" => Function::Not,
                    "eq" => Function::Eq,
                    "ne" => Function::Ne,
                    _ => return Err(bad(format!("function {word:?} not defined"))),
                };
                let mut operands = Vec::new();
                while let Some(operand) = operand(tokens, depth)? {
                    operands.push(operand);
                }
                Call::Function(function, operands)
            }
            _ => match operand(tokens, depth)? {
                Some(operand) if calls.is_empty() => Call::Operand(operand),
                Some(_) => return Err(bad("only a function can stand behind a pipe")),
                None => return Err(bad("missing value")),
            },
        };
        calls.push(call);
        match tokens.split_first() {
            Some((Token::Pipe, rest)) => *tokens = rest,
            None | Some((Token::Close, _)) => return Ok(Pipeline(calls)),
            Some(_) => return Err(bad("unexpected value")),
        }
    }
}

fn operand(tokens: &mut &[Token], depth: usize) -> Result<Option<Operand>, BadTemplate> {
    let Some((first, rest)) = tokens.split_first() else {
        return Ok(None);
    };
    let operand = match first {
        Token::Path(true, path) => Operand::Root(path.clone()),
        Token::Path(false, path) => Operand::Here(path.clone()),
        Token::Literal(value) => Operand::Literal(value.clone()),
        Token::Open => {
            let mut inside = rest;
            let nested = pipeline(&mut inside, depth + 1)?;
            let Some((Token::Close, behind)) = inside.split_first() else {
                return Err(bad("missing \")\""));
            };
            *tokens = behind;
            return Ok(Some(Operand::Nested(Box::new(nested))));
        }
        Token::Word(_) | Token::Pipe | Token::Close => return Ok(None),
    };
    *tokens = rest;
    Ok(Some(operand))
}
