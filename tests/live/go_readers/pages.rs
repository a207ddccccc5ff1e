//! Pages of the pieces that readers of XML and HTML understand in different ways.

use super::Random;

const PIECES: [&str; 78] = [
    "<meta name=\"go-import\" content=\"a.b/c git https://d.e/f\">",
    "<meta name='go-import' content='a.b/c mod https://d.e/g h'/>",
    "<META content='a.b/c git https://d.e/f' NAME=go-import>",
    "<x:meta y:name='go-import' content='a.b/c git https://d.e/?a&amp;b'>",
    "<meta",
    "<head>",
    "</head>",
    "<head/>",
    "<body>",
    "</body>",
    "<body/>",
    "<p>",
    "</p >",
    "<br/>",
    "< ",
    "<",
    ">",
    "/>",
    "/",
    "=",
    " = ",
    "'",
    "\"",
    "&",
    "&amp;",
    "&lt;",
    "&#45;",
    "&#x2d;",
    "&#xD800;",
    "&#0;",
    "&#",
    "&#x",
    ";",
    "&nbsp;",
    "&a",
    "&apos;",
    "&quot;",
    "<!--",
    "-->",
    "--",
    "-",
    "<!-- x -->",
    "<!",
    "<!DOCTYPE html>",
    "<!x [",
    "<![CDATA[",
    "]]>",
    "]]",
    "]",
    "<?",
    "?>",
    "?",
    "<?xml version='1.0'?>",
    "<?xml version=\"1.1\"?>",
    "<?xml encoding='latin1'?>",
    "<?xml encoding='ascii' ?>",
    "<?xml",
    "version=",
    "encoding=",
    "'1.0'",
    "\"UTF-8\"",
    " name",
    " content",
    "go-import",
    "a.b/c git https://d.e/f",
    ":",
    "x",
    "é",
    "·",
    "1",
    ".",
    "_",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "\u{a0}",
    "\u{b}",
];

/// Generates a page.
pub(super) fn generate(random: &mut Random) -> Vec<u8> {
    let mut page = Vec::new();
    for _ in 0..1 + random.below(9) {
        // The whole tags come first.
        let piece = if random.once_in(3) { PIECES[random.below(4)] } else { random.pick(&PIECES) };
        page.extend(piece.as_bytes());
        if random.once_in(8) {
            page.push(b' ');
        }
    }
    if random.once_in(20) {
        let at = random.below(page.len());
        page[at] = random.pick(&[0x80, 0xff, 0, b'<', b'\'', b'-', b'>']);
    }
    page
}
