//! Whether an item matches a rule of `docs/protocol.cddl`.
//!
//! The `cddl` crate reads the text; the matching is here, because its own (0.10.2) refuses every key of
//! `* extension-key => any`, and accepts a byte string for `tstr .size`. Only the part of RFC 8610 that
//! the file uses is there, and anything beyond panics, so that no rule goes unchecked.

use cddl::{
    ast::{
        CDDL, Group, GroupEntry, MemberKey, Occur, Operator, RangeCtlOp, Rule, Type, Type1, Type2,
        ValueMemberKeyEntry,
    },
    token::ControlOperator,
};

use super::item::Item;

pub(crate) struct Schema<'a> {
    cddl: CDDL<'a>,
}

impl<'a> Schema<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { cddl: cddl::cddl_from_str(text, true).expect("CDDL") }
    }

    pub(crate) fn matches(&self, rule: &str, item: &Item) -> bool {
        self.named(rule, item)
    }

    fn rule(&self, name: &str) -> Option<&Type<'a>> {
        self.cddl.rules.iter().find_map(|rule| match rule {
            Rule::Type { rule, .. } if rule.name.ident == name => Some(&rule.value),
            _ => None,
        })
    }

    fn named(&self, name: &str, item: &Item) -> bool {
        match (self.rule(name), name) {
            (Some(rule), _) => self.choice(rule, item),
            // RFC 8610, appendix D.
            (None, "any") => true,
            (None, "uint") => matches!(item, Item::Unsigned(_)),
            (None, "bstr") => matches!(definite(item), Item::Bytes(_)),
            (None, "tstr") => matches!(definite(item), Item::Text(_)),
            (None, "bool") => matches!(*item, Item::TRUE | Item::FALSE),
            (None, _) => panic!("no rule is named {name}"),
        }
    }

    fn choice(&self, choices: &Type<'a>, item: &Item) -> bool {
        choices.type_choices.iter().any(|choice| self.controlled(&choice.type1, item))
    }

    fn controlled(&self, type1: &Type1<'a>, item: &Item) -> bool {
        let Some(Operator { operator, type2, .. }) = &type1.operator else {
            return self.plain(&type1.type2, item);
        };
        let RangeCtlOp::CtlOp { ctrl, .. } = operator else { panic!("a range outside of .size: {type1}") };
        self.plain(&type1.type2, item)
            && match (ctrl, definite(item)) {
                (ControlOperator::LE, Item::Unsigned(value)) => *value <= number(type2),
                (ControlOperator::GE, Item::Unsigned(value)) => *value >= number(type2),
                // RFC 8610, section 3.8.1: for text, the size is that of its UTF-8.
                (ControlOperator::SIZE, Item::Text(text)) => has_size(text.len(), type2),
                (ControlOperator::SIZE, Item::Bytes(bytes)) => has_size(bytes.len(), type2),
                _ => panic!("unknown control: {type1}"),
            }
    }

    fn plain(&self, type2: &Type2<'a>, item: &Item) -> bool {
        match type2 {
            Type2::Typename { ident, generic_args: None, .. } => self.named(ident.ident, item),
            Type2::ParenthesizedType { pt, .. } => self.choice(pt, item),
            Type2::TextValue { value, .. } => matches!(item, Item::Text(text) if *text == **value),
            Type2::UintValue { .. } => *item == Item::Unsigned(number(type2)),
            Type2::Map { group, .. } => matches!(definite(item), Item::Map(map) if self.group(group, map)),
            Type2::Array { group, .. } => {
                matches!(definite(item), Item::Array(items) if self.items(group, items))
            }
            other => panic!("unknown type: {other}"),
        }
    }

    /// All items are of the one kind that the group has, and there is at least one.
    fn items(&self, group: &Group<'a>, items: &[Item]) -> bool {
        let [choice] = &*group.group_choices else { panic!("a choice of groups: {group}") };
        let [(GroupEntry::TypeGroupname { ge, .. }, _)] = &*choice.group_entries else {
            panic!("unknown items: {group}")
        };
        let Some(Occur::OneOrMore { .. }) = ge.occur.as_ref().map(|occurrence| &occurrence.occur) else {
            panic!("unknown occurrence: {group}")
        };
        !items.is_empty() && items.iter().all(|item| self.named(ge.name.ident, item))
    }

    /// Each entry of the group takes what it can of the map, and nothing must be left.
    fn group(&self, group: &Group<'a>, map: &[(Item, Item)]) -> bool {
        let [choice] = &*group.group_choices else { panic!("a choice of groups: {group}") };
        let mut left: Vec<_> = map.iter().collect();
        choice.group_entries.iter().all(|(entry, _)| {
            let GroupEntry::ValueMemberKey { ge, .. } = entry else { panic!("unknown entry: {entry}") };
            let ValueMemberKeyEntry { occur, member_key, entry_type, .. } = &**ge;
            let Some(MemberKey::Type1 { t1, .. }) = member_key else { panic!("unknown key: {entry}") };
            let (least, most) = match occur.as_ref().map(|occurrence| &occurrence.occur) {
                None => (1, 1),
                Some(Occur::Optional { .. }) => (0, 1),
                Some(Occur::ZeroOrMore { .. }) => (0, usize::MAX),
                Some(other) => panic!("unknown occurrence: {other}"),
            };
            let mut taken = 0;
            left.retain(|(key, value)| {
                let takes = taken < most && self.controlled(t1, key) && self.choice(entry_type, value);
                taken += usize::from(takes);
                !takes
            });
            taken >= least
        }) && left.is_empty()
    }
}

/// RFC 8610, section 3: CDDL speaks of data items, not of how their lengths are written.
fn definite(item: &Item) -> &Item {
    if let Item::Indefinite(item) = item { item } else { item }
}

fn number(type2: &Type2<'_>) -> u64 {
    let Type2::UintValue { value, .. } = type2 else { panic!("no number: {type2}") };
    u64::try_from(*value).expect("64 bits")
}

fn has_size(length: usize, type2: &Type2<'_>) -> bool {
    let (least, most) = match type2 {
        Type2::UintValue { .. } => (number(type2), number(type2)),
        _ => range(type2),
    };
    (least..=most).contains(&u64::try_from(length).expect("64 bits"))
}

fn range(type2: &Type2<'_>) -> (u64, u64) {
    if let Type2::ParenthesizedType { pt, .. } = type2
        && let [choice] = &*pt.type_choices
        && let Some(Operator {
            operator: RangeCtlOp::RangeOp { is_inclusive: true, .. }, type2: most, ..
        }) = &choice.type1.operator
    {
        return (number(&choice.type1.type2), number(most));
    }
    panic!("no range: {type2}")
}
