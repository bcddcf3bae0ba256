//! `report`: everything, for programs.

use super::{Failure, Global, output};

/// Flags of `report`.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// A Go template, as in "{{.Router.Name}}" or "{{json .Router.Peers}}"
    #[arg(short = 'f', long, value_name = "TEMPLATE", conflicts_with = "json")]
    format: Option<String>,
}

impl ReportArgs {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client();
        let mut text = match &self.format {
            Some(format) => client.text("/report", &[("format", format)]).await?,
            None => client.report_json().await?,
        };
        // The original leaves the prompt of a terminal behind the last line.
        if output::on_terminal() && !text.ends_with('\n') {
            text.push('\n');
        }
        output::print(&text)
    }
}
