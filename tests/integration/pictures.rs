//! The pictures of a terminal in `docs/pictures` show what the program `examples/node` prints today.
//!
//! `cargo build --example node && DRAW_PICTURES=1 cargo test --test integration pictures` draws them again.

use std::{
    env,
    fmt::Write,
    fs, io,
    path::Path,
    sync::{Arc, Mutex},
};

use indicatif::{ProgressDrawTarget, ProgressState, TermLike};

use crate::{
    bar::{bar, style},
    cli::{Pki, Scratch},
};

/// Of a monospaced font of 14 pixels: how wide ten characters are, and how far apart lines are, in pixels.
const TEN_COLUMNS: usize = 84;
const LINE: usize = 20;
const MARGIN: usize = 16;

#[test]
fn the_picture_of_describe_shows_the_table_that_it_prints() {
    let (pki, folder) = (Pki::new(), Scratch::new());
    let server = pki.serve(&["--files", folder.path()]);
    let table = server.ask("describe", &[]);
    assert_eq!((table.code, &*table.stderr), (Some(0), ""), "{table:?}");
    let shown = format!("$ node describe 127.0.0.1:7443 --pki pki --as sensor\n{}", table.stdout);
    compare("describe.svg", &picture("The output of node describe", &shown));
}

#[test]
fn the_picture_of_put_shows_the_bar_of_a_transfer() {
    let screen = Screen::default();
    let bar = bar("image.bin".to_owned());
    bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(screen.clone())));
    // What depends on the time.
    bar.set_style(
        style().with_key("binary_bytes_per_sec", fixed("80.15 MiB/s")).with_key("eta", fixed("1s")),
    );
    bar.set_length(200_000_000);
    bar.set_position(100 * 1024 * 1024);
    bar.abandon();
    let shown = screen.0.lock().unwrap().trim_end().to_owned();
    let shown = format!("$ node put 127.0.0.1:7443 image.bin --pki pki --as sensor\n{shown}");
    compare("put.svg", &picture("The progress bar of node put", &shown));
}

/// In the place of a part of the bar.
fn fixed(text: &'static str) -> impl Fn(&ProgressState, &mut dyn Write) + Clone + Send + Sync {
    move |_, bar| bar.write_str(text).unwrap()
}

/// Compares with the committed picture, or replaces it.
fn compare(name: &str, drawn: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures").join(name);
    if env::var_os("DRAW_PICTURES").is_some() {
        fs::write(&path, drawn).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap();
    assert!(
        committed == drawn,
        "docs/pictures/{name} shows something else, see the head of this file; the program prints\n{drawn}"
    );
}

/// A terminal with this text, in the colours that the reader's system prefers.
fn picture(title: &str, text: &str) -> String {
    let columns = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
    let width = 2 * MARGIN + length(columns);
    let height = 2 * MARGIN + LINE * text.lines().count();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>{title}</title>\n\
         <style>\n\
         rect {{ fill: #f6f8fa; stroke: #d0d7de }}\n\
         text {{ fill: #1f2328; font: 14px monospace; white-space: pre }}\n\
         @media (prefers-color-scheme: dark) {{\n\
         rect {{ fill: #161b22; stroke: #30363d }}\n\
         text {{ fill: #e6edf3 }}\n\
         }}\n\
         </style>\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"6\"/>\n",
        width - 1,
        height - 1,
    );
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        // The baseline. The length keeps the columns in line, whichever font the reader has.
        let (baseline, length) = (MARGIN + LINE * number + 15, length(line.chars().count()));
        let line = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        writeln!(
            svg,
            "<text x=\"{MARGIN}\" y=\"{baseline}\" textLength=\"{length}\" xml:space=\"preserve\">{line}</text>"
        )
        .unwrap();
    }
    svg + "</svg>\n"
}

/// Of this many characters, in whole pixels.
fn length(columns: usize) -> usize {
    (columns * TEN_COLUMNS).div_ceil(10)
}

/// A terminal of one line, which keeps what is written.
#[derive(Clone, Debug, Default)]
struct Screen(Arc<Mutex<String>>);

impl TermLike for Screen {
    fn width(&self) -> u16 {
        120
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        self.write_str(line)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.lock().unwrap().push_str(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.lock().unwrap().clear();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
