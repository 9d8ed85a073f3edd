//! XML: the text of an element or the value of an attribute. A path is `/root/element/@attribute`; an element is
//! chosen among its equals by number, `entry[2]`, or by an attribute, `entry[@key='url']`.

use std::ops::Range;

use crate::{EditError, Edited, Place, single, splice, unreadable, with_line};

#[derive(Default)]
struct Element {
    name: String,
    /// Names, and where the values stand between their quotes.
    attributes: Vec<(String, Range<usize>)>,
    /// From `<` to behind the `>` of the opening tag.
    tag: Range<usize>,
    /// Between the tags; empty for `<a/>`.
    content: Range<usize>,
    /// Behind the closing tag.
    end: usize,
    closed_in_itself: bool,
    children: Vec<Element>,
    /// What stands in it as text, CDATA sections with their marks; comments left out.
    texts: Vec<Range<usize>>,
}

/// Reads the tree. The outermost element has no name and holds the root.
fn parse(text: &str) -> Edited<Element> {
    let mut open = vec![Element { content: 0..text.len(), end: text.len(), ..Element::default() }];
    let mut at = 0;
    let skip = |at: usize, end: &str| {
        let found = text.get(at..).and_then(|rest| rest.find(end));
        found.map(|found| at + found + end.len()).ok_or_else(|| unreadable(text, at, format!("{end} is missing")))
    };
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("<!--") {
            at = skip(at + 4, "-->")?;
        } else if rest.starts_with("<![CDATA[") {
            let end = skip(at, "]]>")?;
            push_text(&mut open, at..end);
            at = end;
        } else if rest.starts_with("<?") {
            at = skip(at, "?>")?;
        } else if rest.starts_with("<!") {
            let subset = rest.find('[').filter(|bracket| rest.find('>').is_none_or(|end| *bracket < end));
            at = match subset {
                Some(bracket) => skip(skip(at + bracket, "]")?, ">")?,
                None => skip(at, ">")?,
            };
        } else if rest.starts_with("</") {
            let end = skip(at, ">")?;
            let name = text.get(at + 2..end - 1).unwrap_or_default().trim();
            let mut closed = open.pop().unwrap_or_default();
            if closed.name != name || open.is_empty() {
                return Err(unreadable(text, at, format!("</{name}> closes nothing")));
            }
            closed.content.end = at;
            closed.end = end;
            push(&mut open, closed);
            at = end;
        } else if rest.starts_with('<') {
            let element = tag(text, at)?;
            at = element.tag.end;
            if element.closed_in_itself { push(&mut open, element) } else { open.push(element) }
        } else {
            let end = rest.find('<').map_or(text.len(), |end| at + end);
            push_text(&mut open, at..end);
            at = end;
        }
    }
    match (open.pop(), open.last()) {
        (Some(document), None) => Ok(document),
        (Some(left), _) => Err(unreadable(text, left.tag.start, format!("<{}> is not closed", left.name))),
        _ => Err(unreadable(text, 0, "there is no element")),
    }
}

fn push(open: &mut [Element], element: Element) {
    if let Some(parent) = open.last_mut() {
        parent.children.push(element);
    }
}

fn push_text(open: &mut [Element], range: Range<usize>) {
    if let Some(parent) = open.last_mut() {
        parent.texts.push(range);
    }
}

/// An opening tag with its attributes.
fn tag(text: &str, begin: usize) -> Edited<Element> {
    let bytes = text.as_bytes();
    let blank = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_whitespace);
    let name_end = |mut at: usize| {
        while bytes.get(at).is_some_and(|byte| !byte.is_ascii_whitespace() && !b"=/><\"'".contains(byte)) {
            at += 1;
        }
        at
    };
    let broken = |at: usize| unreadable(text, at, "this is no tag");
    let mut at = name_end(begin + 1);
    let mut element = Element { name: text.get(begin + 1..at).unwrap_or_default().to_owned(), ..Element::default() };
    if element.name.is_empty() {
        return Err(broken(begin));
    }
    loop {
        while blank(at) {
            at += 1;
        }
        match bytes.get(at) {
            Some(b'>') => break,
            Some(b'/') if bytes.get(at + 1) == Some(&b'>') => {
                element.closed_in_itself = true;
                at += 1;
                break;
            }
            Some(_) => {}
            None => return Err(broken(begin)),
        }
        let name = at..name_end(at);
        at = name.end;
        while blank(at) {
            at += 1;
        }
        if name.is_empty() || bytes.get(at) != Some(&b'=') {
            return Err(broken(at));
        }
        at += 1;
        while blank(at) {
            at += 1;
        }
        let quote = *bytes.get(at).filter(|quote| b"\"'".contains(quote)).ok_or_else(|| broken(at))?;
        let start = at + 1;
        at = start;
        while bytes.get(at).is_some_and(|byte| *byte != quote) {
            at += 1;
        }
        element.attributes.push((text.get(name).unwrap_or_default().to_owned(), start..at));
        at += 1;
    }
    element.tag = begin..at + 1;
    element.content = at + 1..at + 1;
    element.end = at + 1;
    Ok(element)
}

/// One step of a path.
struct Step<'a> {
    name: &'a str,
    nth: Option<usize>,
    with: Option<(&'a str, &'a str)>,
}

fn steps(path: &str) -> Edited<(Vec<Step<'_>>, Option<&str>)> {
    let refused = || EditError::Refused(format!("{path} is no path: it looks like /root/element[2]/@attribute"));
    let mut steps = Vec::new();
    let mut rest = path.strip_prefix('/').unwrap_or(path);
    loop {
        if let Some(attribute) = rest.strip_prefix('@') {
            return if attribute.is_empty() || steps.is_empty() {
                Err(refused())
            } else {
                Ok((steps, Some(attribute)))
            };
        }
        let end = rest.find(['/', '[']).unwrap_or(rest.len());
        let mut step = Step { name: rest.get(..end).unwrap_or_default(), nth: None, with: None };
        if step.name.is_empty() {
            return Err(refused());
        }
        rest = rest.get(end..).unwrap_or_default();
        while let Some(inner) = rest.strip_prefix('[') {
            if let Some(condition) = inner.strip_prefix('@') {
                let (name, value) = condition.split_once('=').ok_or_else(refused)?;
                let quote = value.chars().next().filter(|first| matches!(first, '"' | '\'')).ok_or_else(refused)?;
                let (value, after) = value.get(1..).and_then(|value| value.split_once(quote)).ok_or_else(refused)?;
                step.with = Some((name, value));
                rest = after.strip_prefix(']').ok_or_else(refused)?;
            } else {
                let (number, after) = inner.split_once(']').ok_or_else(refused)?;
                step.nth = Some(number.parse().ok().filter(|nth| *nth > 0).ok_or_else(refused)?);
                rest = after;
            }
        }
        steps.push(step);
        if rest.is_empty() {
            return Ok((steps, None));
        }
        rest = rest.strip_prefix('/').ok_or_else(refused)?;
    }
}

fn choose<'a>(text: &str, parent: &'a Element, step: &Step<'_>) -> Vec<&'a Element> {
    let fits = |element: &&Element| {
        element.name == step.name
            && step.with.is_none_or(|(name, value)| {
                let of =
                    |one: &(String, Range<usize>)| one.0 == name && text.get(one.1.clone()) == Some(&escaped(value));
                element.attributes.iter().any(of)
            })
    };
    let found = parent.children.iter().filter(fits);
    match step.nth {
        Some(nth) => found.skip(nth - 1).take(1).collect(),
        None => found.collect(),
    }
}

fn element<'a>(text: &str, document: &'a Element, path: &str, steps: &[Step<'_>]) -> Edited<&'a Element> {
    let mut found = vec![document];
    for step in steps {
        found = found.into_iter().flat_map(|parent| choose(text, parent, step)).collect();
    }
    single(found, path)
}

fn attribute(element: &Element, name: &str) -> Option<Range<usize>> {
    element.attributes.iter().find(|(known, _)| known == name).map(|(_, range)| range.clone())
}

pub(crate) fn find(text: &str, path: &str) -> Edited<Place> {
    let document = parse(text)?;
    let (steps, of) = steps(path)?;
    let element = element(text, &document, path, &steps)?;
    let Some(name) = of else {
        let whole = with_line(text, element.tag.start..element.end);
        return Ok(Place { value: element.content.clone(), whole });
    };
    let value = attribute(element, name).ok_or_else(|| EditError::Missing(path.to_owned()))?;
    let before = text.get(element.tag.start..value.start).unwrap_or_default();
    let begin = element.tag.start + before.rfind(name).map_or(0, |at| before.get(..at).unwrap_or("").trim_end().len());
    Ok(Place { whole: begin..value.end + 1, value })
}

pub(crate) fn set(text: &str, path: &str, value: &str) -> Edited<String> {
    let document = parse(text)?;
    let (steps, of) = steps(path)?;
    let element = element(text, &document, path, &steps)?;
    if value.chars().any(|one| one < ' ' && !"\t\n\r".contains(one)) {
        return Err(EditError::Refused("XML cannot hold such characters".to_owned()));
    }
    if let Some(name) = of {
        let range = attribute(element, name).ok_or_else(|| EditError::Missing(path.to_owned()))?;
        let fresh = escaped(value).replace('\n', "&#10;").replace('\t', "&#9;");
        return Ok(splice(text, &range, &fresh));
    }
    if !element.children.is_empty() {
        return Err(EditError::Refused(format!("{path} holds elements, and not a value")));
    }
    let fresh = escaped(value);
    if element.closed_in_itself {
        // `<a x="1"/>` and `<a />` become `<a x="1">value</a>`.
        let open = text.get(element.tag.start..element.tag.end - 2).unwrap_or_default().trim_end();
        return Ok(splice(text, &element.tag, &format!("{open}>{fresh}</{}>", element.name)));
    }
    let full = |range: &&Range<usize>| !text.get((*range).clone()).unwrap_or_default().trim().is_empty();
    let texts: Vec<&Range<usize>> = element.texts.iter().filter(full).collect();
    match texts.as_slice() {
        [] => {
            // Only blanks: they go, unless they are the indentation of a comment.
            let blank = text.get(element.content.clone()).is_some_and(|content| content.trim().is_empty());
            let range = if blank { element.content.clone() } else { element.content.start..element.content.start };
            Ok(splice(text, &range, &fresh))
        }
        [one] => {
            let shown = text.get((*one).clone()).unwrap_or_default();
            let start = one.start + (shown.len() - shown.trim_start().len());
            Ok(splice(text, &(start..start + shown.trim().len()), &fresh))
        }
        _ => Err(EditError::Refused(format!("{path} holds text in several parts"))),
    }
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for one in value.chars() {
        match one {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\r' => out.push_str("&#13;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "<?xml version=\"1.0\"?>\n<!DOCTYPE c [<!ENTITY x \"y\">]>\n<!-- <c><url>no</url></c> -->\n<c>\n  \
        <url>jdbc:prod</url> <!-- keep -->\n  <pool size='5' max = \"9\"/>\n  <e key=\"a\">1</e>\n  <e key=\"b\"><![CDATA[2]]></e>\n  \
        <empty></empty>\n</c>\n";

    #[test]
    fn a_value_changes_and_nothing_else() -> Edited<()> {
        assert_eq!(set(FILE, "/c/url", "a&b<c>")?, FILE.replace("jdbc:prod", "a&amp;b&lt;c&gt;"));
        assert_eq!(set(FILE, "c/pool/@max", "\"7")?, FILE.replace("\"9\"", "\"&quot;7\""));
        assert_eq!(set(FILE, "/c/e[2]", "x")?, FILE.replace("<![CDATA[2]]>", "x"));
        assert_eq!(set(FILE, "/c/e[@key='a']", "x")?, FILE.replace(">1<", ">x<"));
        assert_eq!(set(FILE, "/c/pool", "x")?, FILE.replace("max = \"9\"/>", "max = \"9\">x</pool>"));
        assert_eq!(set(FILE, "/c/empty", "x")?, FILE.replace("<empty></empty>", "<empty>x</empty>"));
        Ok(())
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        assert_eq!(set(FILE, "/c/nothing", "x"), Err(EditError::Missing("/c/nothing".to_owned())));
        assert_eq!(set(FILE, "/c/url/@x", "x"), Err(EditError::Missing("/c/url/@x".to_owned())));
        assert_eq!(set(FILE, "/c/e", "x"), Err(EditError::Ambiguous("/c/e".to_owned(), 2)));
        for (file, path) in
            [(FILE, "/c"), (FILE, ""), (FILE, "/c/e[0]"), ("<a><b></a>", "/a"), ("<a", "/a"), ("<a>", "/a")]
        {
            assert!(set(file, path, "x").is_err(), "{file} {path}");
        }
    }

    #[test]
    fn an_element_goes_with_its_line_and_an_attribute_with_its_blank() -> Edited<()> {
        let place = find(FILE, "/c/e[1]")?;
        assert_eq!(FILE.get(place.whole), Some("  <e key=\"a\">1</e>\n"));
        let place = find(FILE, "/c/pool/@max")?;
        assert_eq!(FILE.get(place.whole), Some(" max = \"9\""));
        let place = find(FILE, "/c/url")?;
        assert_eq!(FILE.get(place.whole), Some("<url>jdbc:prod</url>"));
        Ok(())
    }
}
