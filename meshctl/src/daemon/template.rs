//! Templates for the report, in the part of Go's `text/template` language that reports need.
//!
//! ```text
//! template  = { text | "{{" action "}}" }          "{{-" and "-}}" take blanks away
//! action    = pipeline | "/*" comment "*/"
//!           | "range" pipeline | "if" pipeline | "with" pipeline | "else" [ "if" pipeline ] | "end"
//! pipeline  = call { "|" call }                    the value before "|" becomes the last argument
//! call      = function { operand } | operand
//! function  = "json" | "len" | "index" | "not" | "eq" | "ne"
//! operand   = "." | "$" | { "." name } | "$" { "." name } | string | integer | "true" | "false"
//!           | "(" pipeline ")"
//! ```
//!
//! Variables and the formatting functions are missing. A template runs on the JSON form of the
//! report; how much it may print and do is bounded.

mod parse;

use serde_json::Value;
use thiserror::Error;

/// Steps that one rendering may take.
const MAX_STEPS: usize = 1_000_000;
/// Bytes that one rendering may print.
const MAX_OUTPUT: usize = 16 << 20;

/// A template that has been understood.
#[derive(Debug)]
pub struct Template(Vec<Node>);

/// The text is not a template.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("template: {0}")]
pub struct BadTemplate(String);

/// The template does not fit the report.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RenderError {
    /// A field that is not there: the service behind it is off, or the name is wrong.
    #[error("there is no field {0}")]
    NoField(String),
    /// A function got what it cannot take.
    #[error("{0}")]
    BadArgument(String),
    /// It prints or does too much.
    #[error("the template does too much")]
    TooMuch,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Pipeline),
    Range(Branch),
    If(Branch),
    With(Branch),
}

#[derive(Debug)]
struct Branch {
    on: Pipeline,
    then: Vec<Node>,
    otherwise: Vec<Node>,
}

#[derive(Debug)]
struct Pipeline(Vec<Call>);

#[derive(Debug)]
enum Call {
    Operand(Operand),
    Function(Function, Vec<Operand>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Json,
    Len,
    Index,
    Not,
    Eq,
    Ne,
}

#[derive(Debug)]
enum Operand {
    /// A path from the current value.
    Here(Vec<String>),
    /// A path from the report.
    Root(Vec<String>),
    Literal(Value),
    Nested(Box<Pipeline>),
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        parse::template(text).map(Self)
    }

    /// What it says about `root`.
    pub fn render(&self, root: &Value) -> Result<String, RenderError> {
        let mut rendering = Rendering {
            root,
            output: String::new(),
            steps: 0,
        };
        rendering.nodes(&self.0, root)?;
        Ok(rendering.output)
    }
}

struct Rendering<'a> {
    root: &'a Value,
    output: String,
    steps: usize,
}

impl Rendering<'_> {
    fn nodes(&mut self, nodes: &[Node], here: &Value) -> Result<(), RenderError> {
        for node in nodes {
            self.steps += 1;
            if self.steps > MAX_STEPS || self.output.len() > MAX_OUTPUT {
                return Err(RenderError::TooMuch);
            }
            match node {
                Node::Text(text) => self.output.push_str(text),
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, here)?;
                    print(&mut self.output, &value);
                }
                Node::If(branch) => {
                    let nodes = match truth(&self.pipeline(&branch.on, here)?) {
                        true => &branch.then,
                        false => &branch.otherwise,
                    };
                    self.nodes(nodes, here)?;
                }
                Node::With(branch) => {
                    let value = self.pipeline(&branch.on, here)?;
                    if truth(&value) {
                        self.nodes(&branch.then, &value)?;
                    } else {
                        self.nodes(&branch.otherwise, here)?;
                    }
                }
                Node::Range(branch) => match self.pipeline(&branch.on, here)? {
                    Value::Array(items) if !items.is_empty() => {
                        for item in &items {
                            self.nodes(&branch.then, item)?;
                        }
                    }
                    Value::Object(items) if !items.is_empty() => {
                        for item in items.values() {
                            self.nodes(&branch.then, item)?;
                        }
                    }
                    Value::Array(_) | Value::Object(_) | Value::Null => {
                        self.nodes(&branch.otherwise, here)?;
                    }
                    other => return bad(format!("range can't iterate over {other}")),
                },
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, here: &Value) -> Result<Value, RenderError> {
        let mut passed = None;
        for call in &pipeline.0 {
            let value = match call {
                Call::Operand(operand) => self.operand(operand, here)?,
                Call::Function(function, operands) => {
                    let mut arguments = Vec::with_capacity(operands.len() + 1);
                    for operand in operands {
                        arguments.push(self.operand(operand, here)?);
                    }
                    arguments.extend(passed.take());
                    apply(*function, &arguments)?
                }
            };
            passed = Some(value);
        }
        Ok(passed.unwrap_or(Value::Null))
    }

    fn operand(&mut self, operand: &Operand, here: &Value) -> Result<Value, RenderError> {
        let (mut value, path) = match operand {
            Operand::Here(path) => (here, path),
            Operand::Root(path) => (self.root, path),
            Operand::Literal(value) => return Ok(value.clone()),
            Operand::Nested(pipeline) => return self.pipeline(pipeline, here),
        };
        for name in path {
            let field = value.get(name.as_str());
            value = field.ok_or_else(|| RenderError::NoField(name.clone()))?;
        }
        Ok(value.clone())
    }
}

fn apply(function: Function, arguments: &[Value]) -> Result<Value, RenderError> {
    match (function, arguments) {
        (Function::Json, [value]) => Ok(Value::String(value.to_string())),
        (Function::Len, [Value::Array(items)]) => Ok(items.len().into()),
        (Function::Len, [Value::Object(items)]) => Ok(items.len().into()),
        (Function::Len, [Value::String(text)]) => Ok(text.len().into()),
        (Function::Len, [Value::Null]) => Ok(0.into()),
        (Function::Index, [value, keys @ ..]) => {
            let mut value = value;
            for key in keys {
                let found = match key {
                    Value::String(key) => value.get(key),
                    key => key
                        .as_u64()
                        .and_then(|key| value.get(usize::try_from(key).ok()?)),
                };
                value = found.ok_or_else(|| RenderError::NoField(key.to_string()))?;
            }
            Ok(value.clone())
        }
        (Function::Not, [value]) => Ok((!truth(value)).into()),
        (Function::Eq, [value, others @ ..]) if !others.is_empty() => {
            Ok(others.contains(value).into())
        }
        (Function::Ne, [one, other]) => Ok((one != other).into()),
        _ => bad(format!("{function:?} cannot take these arguments").to_lowercase()),
    }
}

fn bad<T>(text: String) -> Result<T, RenderError> {
    Err(RenderError::BadArgument(text))
}

/// Go's idea of truth: not empty.
fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
    }
}

/// As Go prints values: lists in brackets, separated by blanks.
fn print(output: &mut String, value: &Value) {
    match value {
        Value::Null => output.push_str("<no value>"),
        Value::String(text) => output.push_str(text),
        Value::Array(items) => {
            output.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    output.push(' ');
                }
                print(output, item);
            }
            output.push(']');
        }
        other => output.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests;
