use serde_json::json;

use super::*;

fn render(template: &str) -> Result<String, RenderError> {
    let report = json!({
        "Version": "0.1.0",
        "VersionCheck": {"Enabled": false, "NewVersion": ""},
        "Router": {
            "Name": "::1",
            "Targets": ["a", "b:6784"],
            "Peers": [
                {"Name": "::1", "Connections": [{"Name": "::2"}]},
                {"Name": "::2", "Connections": []},
            ],
            "Port": 6783,
            "Attrs": null,
        },
    });
    Template::parse(template).unwrap().render(&report)
}

#[test]
fn what_scripts_of_the_original_ask_for() {
    for (template, text) in [
        ("{{.Router.Name}}", "::1"),
        ("{{ .Version }}", "0.1.0"),
        ("{{.VersionCheck.Enabled}}", "false"),
        ("{{.VersionCheck.NewVersion}}", ""),
        ("{{range .Router.Targets}}{{.}}\n{{end}}", "a\nb:6784\n"),
        (
            "{{range .Router.Targets}}{{.}}{{\"\\n\"}}{{end}}",
            "a\nb:6784\n",
        ),
        ("{{json .Router.Targets}}", "[\"a\",\"b:6784\"]"),
        ("{{len .Router.Peers}}", "2"),
        ("{{.Router.Targets}}", "[a b:6784]"),
        (
            "{{range .Router.Peers}}{{.Name}}:{{len .Connections}} {{end}}",
            "::1:1 ::2:0 ",
        ),
        ("plain", "plain"),
        ("", ""),
    ] {
        assert_eq!(render(template).as_deref(), Ok(text), "{template}");
    }
}

#[test]
fn branches_and_functions() {
    for (template, text) in [
        ("{{if .VersionCheck.Enabled}}on{{else}}off{{end}}", "off"),
        ("{{if eq .Router.Port 6783 1}}std{{end}}", "std"),
        (
            "{{if ne .Router.Port 6783}}x{{else if .Version}}y{{else}}z{{end}}",
            "y",
        ),
        ("{{if not .Router.Attrs}}none{{end}}", "none"),
        (
            "{{with .Router}}{{.Name}} {{$.Version}}{{end}}",
            "::1 0.1.0",
        ),
        (
            "{{with .Router.Attrs}}x{{else}}{{.Version}}{{end}}",
            "0.1.0",
        ),
        ("{{range .Router.Attrs}}x{{else}}empty{{end}}", "empty"),
        ("{{index .Router.Targets 1}}", "b:6784"),
        ("{{index .Router.Peers 0 \"Name\"}}", "::1"),
        ("{{.Router.Targets | len}}", "2"),
        ("{{(index .Router.Peers 1).Name}}", "!"),
        ("{{len (index .Router.Peers 0 \"Connections\")}}", "1"),
        ("a {{- /* nothing */ -}} b", "ab"),
        ("a {{- .Router.Port -}} b", "a6783b"),
        ("{{`}}`}}{{\"}}\"}}", "}}}}"),
        ("{{range .VersionCheck}}[{{.}}]{{end}}", "[false][]"),
        ("{{.Router.Attrs}}", "<no value>"),
    ] {
        if text == "!" {
            assert!(Template::parse(template).is_err(), "{template}");
        } else {
            assert_eq!(render(template).as_deref(), Ok(text), "{template}");
        }
    }
}

#[test]
fn nonsense_is_no_template() {
    let deep = format!("{}{}", "{{if .}}".repeat(100), "{{end}}".repeat(100));
    let parentheses = format!("{{{{{}.{}}}}}", "(".repeat(100), ")".repeat(100));
    for bad in [
        "{{",
        "{{}}",
        "{{.A",
        "{{range .A}}",
        "{{end}}",
        "{{else}}",
        "{{if}}{{end}}",
        "{{$x}}",
        "{{$x := .A}}",
        "{{.A..B}}",
        "{{..}}",
        "{{foo .A}}",
        "{{\"x}}",
        "{{`x}}",
        "{{(.A}}",
        "{{.A)}}",
        "{{.A | .B}}",
        "{{.A |}}",
        "{{.A .B}}",
        "{{if .A}}{{else}}{{else}}{{end}}",
        "{{end x}}",
        "{{#}}",
        "{{.A.}}",
        deep.as_str(),
        parentheses.as_str(),
    ] {
        assert!(Template::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_does_not_fit_is_told() {
    assert_eq!(
        render("{{.DNS.Domain}}"),
        Err(RenderError::NoField("DNS".to_owned()))
    );
    assert_eq!(
        render("{{index .Router.Targets 9}}"),
        Err(RenderError::NoField("9".to_owned()))
    );
    for bad in [
        "{{range .Version}}{{end}}",
        "{{len 3}}",
        "{{json}}",
        "{{eq 1}}",
        "{{not 1 2}}",
    ] {
        assert!(
            matches!(render(bad), Err(RenderError::BadArgument(_))),
            "{bad}"
        );
    }
}

#[test]
fn work_is_bounded() {
    let report = json!(vec![0; 100]);
    let template = format!("{}x{}", "{{range $}}".repeat(10), "{{end}}".repeat(10));
    let template = Template::parse(&template).unwrap();
    assert_eq!(template.render(&report), Err(RenderError::TooMuch));
}

#[test]
fn any_text_is_read_without_harm() {
    let pieces = [
        "{{", "}}", "-", " ", ".A", "$", "\"", "\\", "`", "(", ")", "|", "if", "end", "é",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..12 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let piece = usize::try_from(state % 15).unwrap();
            text.push_str(pieces[piece]);
        }
        if let Ok(template) = Template::parse(&text) {
            let _ = template.render(&json!({"A": ["x"]}));
        }
    }
}
